"""The chat page in a real Chromium, before a server that misbehaves on request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.serving.gateway.page.browser import ChatPage, Open, chromium
from tests.serving.gateway.page.fake_openai import FakeOpenAI, serve


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeOpenAI, str]]:
    fake = FakeOpenAI()
    with serve(fake.app) as url:
        yield fake, url


@pytest.fixture
def fake(served: tuple[FakeOpenAI, str]) -> FakeOpenAI:
    served[0].forget()
    return served[0]


@pytest.fixture
def open_page(browser: Browser, served: tuple[FakeOpenAI, str], fake: FakeOpenAI) -> Iterator[Open]:
    opened: list[ChatPage] = []

    def open_page(**context: Any) -> ChatPage:
        opened.append(ChatPage(browser, served[1], **context))
        return opened[-1]

    yield open_page
    for chat in opened:
        chat.context.close()
    assert [problem for chat in opened for problem in chat.problems] == []


@pytest.fixture
def chat(open_page: Open) -> ChatPage:
    return open_page()
