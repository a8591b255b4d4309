"""The chat page served by the real gateway before the real Triton."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.conftest import Server
from tests.serving.gateway.page.browser import ChatPage, chromium

pytestmark = [pytest.mark.browser, pytest.mark.triton]


@pytest.fixture(scope="module")
def chat(server: Server) -> Iterator[ChatPage]:
    with chromium() as browser:
        page = ChatPage(browser, server.gateway)
        yield page
        assert page.problems == []


def settings(chat: ChatPage, **values: str) -> None:
    chat.page.click("#open-settings")
    for name, value in values.items():
        chat.page.fill(f"#{name}", value)
    chat.page.keyboard.press("Escape")


def test_an_answer_with_its_figures(chat: ChatPage) -> None:
    settings(chat, max_tokens="40", temperature="0.7", top_k="20", repetition_penalty="1.1", seed="3")
    assert chat.ask("hello")
    stats = chat.page.locator(".assistant .stats").last.inner_text()
    assert "first token" in stats and "40 tokens" in stats and "token limit" in stats
    assert "context tokens used" in chat.page.inner_text("#context")
    assert chat.page.is_visible("#notice"), "the simulated model's text is noise and the page says so"


def test_stop_frees_the_slot(chat: ChatPage, server: Server) -> None:
    settings(chat, max_tokens="4000")
    chat.send("a long one")
    chat.page.wait_for_selector(".assistant[data-state=streaming]:last-child")
    server.wait_for(lambda: server.metric("qwen_slots_used") == 1, seconds=5)
    chat.page.click("#stop")
    chat.wait("stopped")
    server.wait_for(lambda: server.metric("qwen_slots_used") == 0, seconds=2)


def test_a_refusal_names_the_field(chat: ChatPage) -> None:
    settings(chat, max_tokens="900000")
    chat.send("hello")
    chat.wait("error")
    expect(chat.page.locator(".message:last-child [role=alert]")).to_contain_text("max_tokens")
