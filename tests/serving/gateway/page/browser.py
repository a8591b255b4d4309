"""Chromium for the page tests: Debian's, driven by Playwright, no browser download."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
MOUNTED_MS = 5000


def chromium_path() -> str:
    """Where Chromium is. CHROMIUM names another one."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        raise RuntimeError("chromium is missing: apt-get install chromium, or CHROMIUM=<path>")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        yield browser
        browser.close()


class ChatPage:
    """The page as a user sees it. ``problems`` collects script errors and refused resources."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.context = browser.new_context(
            **({"locale": "en-US", "viewport": {"width": 1280, "height": 800}} | context)
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(MOUNTED_MS)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.goto(url)
        expect(self.page.locator("#model-name")).not_to_have_text("")

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:
            self.problems.append(text)

    def send(self, text: str) -> None:
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")

    def ask(self, text: str) -> str:
        """Sends and waits for the end of the answer; its text."""
        self.send(text)
        return self.wait("done")

    def wait(self, state: str) -> str:
        self.page.wait_for_selector(f".assistant[data-state={state}]:last-child")
        return self.text()

    def text(self) -> str:
        return self.page.locator(".assistant .body").last.inner_text()


Open = Callable[..., ChatPage]
