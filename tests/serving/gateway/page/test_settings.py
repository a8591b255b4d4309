"""The chat page's settings, languages, themes, accessibility, and its own parsers, in a real Chromium."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.serving.gateway.page.browser import ChatPage, Open
from tests.serving.gateway.page.fake_openai import ANSWER, FakeOpenAI

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent.parent / "js" / "node_modules" / "axe-core" / "axe.min.js"


def test_settings_are_sent_and_survive_a_reload(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.page.click("#open-settings")
    values = {"system": "Be brief.", "temperature": "0.5", "top_k": "7", "max_tokens": "99", "seed": "1", "top_p": "3"}
    for name, value in values.items():
        chat.page.fill(f"#{name}", value)
    assert chat.page.inner_text("#top_p-problem") == "Not sent: must be between 0 and 1"
    chat.page.click("#close-settings")
    for _ in range(2):
        chat.ask("/say x")
        sent = fake.requests[-1]
        assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
        assert {name: sent[name] for name in ("temperature", "top_k", "max_tokens", "seed")} == {
            "temperature": 0.5, "top_k": 7, "max_tokens": 99, "seed": 1,
        }  # fmt: skip
        assert "top_p" not in sent and "repetition_penalty" not in sent
        assert sent["repetition_detection"] == {"max_pattern_size": 256, "min_pattern_size": 40, "min_count": 3}
        chat.page.reload()
    chat.page.click("#open-settings")
    assert chat.page.inner_text("#top_p-problem") == "Not sent: must be between 0 and 1", "still, after a reload"
    chat.page.fill("#top_k", "1.5")
    assert chat.page.inner_text("#top_k-problem") == "Not sent: must be a whole number"
    chat.page.click("#stop_loops")
    chat.page.keyboard.press("Escape")
    chat.page.reload()
    chat.ask("/say x")
    assert "repetition_detection" not in fake.requests[-1], "off by choice, and still after a reload"
    chat.page.click("#open-settings")
    chat.page.click("#reset")
    assert chat.page.is_checked("#stop_loops")
    chat.page.keyboard.press("Escape")
    chat.ask("/say x")
    assert "temperature" not in fake.requests[-1] and fake.requests[-1]["messages"][0]["role"] == "user"


def test_the_api_key_is_sent_but_never_kept_on_disk(chat: ChatPage, fake: FakeOpenAI) -> None:
    chat.send("/status 401")
    chat.wait("error")
    assert chat.page.evaluate("document.activeElement.id") == "api_key", "the page leads to the missing key"
    chat.page.keyboard.type("sk-secret")
    chat.page.keyboard.press("Escape")
    chat.page.reload()
    chat.ask("/say x")
    assert fake.requests[-1]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in chat.page.evaluate("JSON.stringify(localStorage)")


def test_a_synthetic_model_is_told(open_page: Open, fake: FakeOpenAI) -> None:
    assert not open_page().page.is_visible("#notice")
    fake.models[0]["synthetic"] = True
    assert "random weights" in open_page().page.inner_text("#notice")


def test_several_models_can_be_chosen(open_page: Open, fake: FakeOpenAI) -> None:
    fake.models.append({"id": "other"})
    chat = open_page()
    chat.page.click("#open-settings")
    chat.page.select_option("#model", "other")
    chat.page.keyboard.press("Escape")
    chat.page.reload()
    expect(chat.page.locator("#model-name")).to_have_text("other")
    chat.ask("/say x")
    assert fake.requests[-1]["model"] == "other"


def test_language_follows_the_browser_and_can_be_switched(open_page: Open) -> None:
    chat = open_page(locale="zh-CN")
    assert chat.page.inner_text("#new-chat") == "新对话"
    assert chat.page.evaluate("document.documentElement.lang") == "zh-CN"
    chat.ask("/say 你好")
    assert "首个 token" in chat.page.inner_text(".assistant .stats")
    chat.page.click("#language")
    assert "first token" in chat.page.inner_text(".assistant .stats")
    chat.page.reload()
    assert chat.page.inner_text("#new-chat") == "New chat"


def test_both_languages_have_every_word(chat: ChatPage) -> None:
    words: dict[str, dict[str, str]] = chat.page.evaluate(
        """async () => { const {LANGUAGES, wordsOf} = await import(new URL('static/js/i18n.js', document.baseURI));
        return Object.fromEntries(LANGUAGES.map(name => [name, wordsOf(name)])); }"""
    )
    assert set(words["en"]) == set(words["zh"])
    assert all(text for each in words.values() for text in each.values())


def test_theme_follows_the_system_and_can_be_switched(open_page: Open) -> None:
    chat = open_page(color_scheme="dark")
    assert chat.page.evaluate("document.documentElement.dataset.theme") == "dark"
    chat.page.click("#theme")
    chat.page.reload()
    assert chat.page.evaluate("document.documentElement.dataset.theme") == "light"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_accessibility_fault(open_page: Open, scheme: str) -> None:
    chat = open_page(color_scheme=scheme)
    chat.page.evaluate(AXE.read_text())
    chat.ask("hello")
    assert faults(chat) == []
    chat.send("/status 429")
    chat.wait("error")
    chat.page.click("#open-settings")
    assert faults(chat) == []


def faults(chat: ChatPage) -> list[Any]:
    found: list[dict[str, Any]] = chat.page.evaluate("axe.run().then(result => result.violations)")
    return [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found]


def test_code_can_be_copied(open_page: Open) -> None:
    chat = open_page(permissions=["clipboard-read", "clipboard-write"])
    chat.ask("hello")
    chat.page.click("[data-action=copy-code]")
    code = ANSWER.partition("```python\n")[2].partition("\n```")[0]
    assert chat.page.evaluate("navigator.clipboard.readText()") == code


def test_code_can_be_copied_after_a_reload(open_page: Open) -> None:
    """A kept answer is drawn before the highlighter has come, and once more when it has."""
    chat = open_page()
    chat.ask("hello")
    chat.page.reload()
    chat.page.wait_for_selector(".code .hljs-keyword, .code [class^=hljs]")
    heads = chat.page.locator(".code-head")
    assert heads.count() == chat.page.locator(".code-head [data-action=copy-code]").count() > 0


def test_a_stream_cut_anywhere_is_read_the_same(chat: ChatPage) -> None:
    assert chat.ask("/bytes 1") == chat.ask("/bytes 7")
    assert "你好世界 🎉" in chat.text()


def test_formulas_are_drawn_and_prices_are_not(chat: ChatPage) -> None:
    chat.ask(
        r"/say Costs $5 or $6. \(x^2\) and $y_1$:" + "\n\n" + r"\[ \frac{a}{b} \]" + "\n\n" + r"$$\bad{$$ `\(code\)`"
    )
    body = chat.page.locator(".assistant .body")
    expect(body.locator("math mfrac")).to_have_count(1)
    expect(body.locator("math msup, math msub")).to_have_count(2)
    text = body.inner_text()
    assert "Costs $5 or $6." in text and r"$$\bad{$$" in text and r"\(code\)" in text


SSE = "\ufeff: note\r\nevent: a\rdata: 你🎉\r\ndata:two\n\nid: 7\ndata\n\n\nevent: lost\n\ndata:  x: y\r\n\r\ndata: cut"
SSE_EVENTS = [
    {"event": "a", "data": "你🎉\ntwo"},
    {"event": "message", "data": ""},
    {"event": "message", "data": " x: y"},
]


def test_the_sse_parser_at_every_split(chat: ChatPage) -> None:
    results: list[Any] = chat.page.evaluate(
        """async (text) => { const {SSEParser} = await import(new URL('static/js/sse.js', document.baseURI));
        const bytes = new TextEncoder().encode(text), out = new Set();
        for (let i = 0; i <= bytes.length; i++) for (let j = i; j <= bytes.length; j++) {
          const parser = new SSEParser();
          const parts = [bytes.slice(0, i), bytes.slice(i, j), bytes.slice(j)];
          out.add(JSON.stringify(parts.flatMap(part => parser.push(part)))); }
        return [...out]; }""",
        SSE,
    )
    assert [json.loads(result) for result in results] == [SSE_EVENTS]


PIECES = [
    "# Title\n", "text\n===\n", "- a\n", "- b\n\n", "  deep\n", "1. x\n", "```py\nx = 1\n", "```\n", "> quote\n",
    "|a|b|\n|-|-|\n", "|1|2|\n", "\n", "\n\n", "**bold", "** ", "`code` ", "[l](https://e.org) ", "<b>raw</b>\n",
    "<div>\n\n", "word ", "* * *\n", "    indented\n", "\r\n", "![i](https://e.org/i.png) ", "- [ ] task\n", "\\* ",
    "&amp; ", "[r]: https://e.org\n", "[r] ", "\\(x^2\\) ", "\\[\ny\n", "\\]\n", "$$z$$\n", "costs $5 or $6 ", "$a$ ",
]  # fmt: skip


def test_markdown_drawn_bit_by_bit_ends_as_if_drawn_at_once(chat: ChatPage) -> None:
    dice = random.Random(4)
    texts = ["".join(dice.choices(PIECES, k=dice.randint(1, 14))) for _ in range(300)] + [ANSWER]
    different: list[Any] = chat.page.evaluate(
        """async (texts) => {
        const load = name => import(new URL(`static/js/${name}.js`, document.baseURI));
        const {MarkdownView} = await load('markdown');
        const {library, pending} = await load('lazy'); library('highlight'); library('temml'); await pending();
        const draw = (text, step) => { const root = document.createElement('div'), view = new MarkdownView(root);
          for (let end = step; step && end < text.length; end += step) view.update(text.slice(0, end));
          view.update(text); const before = root.innerHTML;
          view.update(text, {final: true}); return [before, root.innerHTML]; };
        const plain = html => html.replace(/\\s+/g, ' ');
        return texts.flatMap(text => { const [before, final] = draw(text, 3), [, whole] = draw(text, 0);
          if (final !== whole) return [{text, final, whole}];
          return !/\\[r\\]:/.test(text) && plain(before) !== plain(whole) ? [{text, before, whole}] : []; }); }""",
        texts,
    )
    assert different == []


MARKDOWN = """3. three
4. four

- [x] done
- [ ] open

| left | right |
|:---|---:|
| a | 14,777 |
"""


def test_lists_tasks_and_columns_keep_what_markdown_says(chat: ChatPage) -> None:
    seen = chat.page.evaluate(
        """async (text) => {
        const load = name => import(new URL(`static/js/${name}.js`, document.baseURI));
        const {MarkdownView} = await load('markdown');
        const root = document.createElement('div'); document.body.append(root);
        new MarkdownView(root).update(text, {final: true});
        const boxes = [...root.querySelectorAll('input')];
        return {start: root.querySelector('ol').start, types: boxes.map((b) => b.type),
                checked: boxes.map((b) => b.checked), align: root.querySelectorAll('td')[1].getAttribute('align'),
                links: root.querySelectorAll('a').length}; }""",
        MARKDOWN,
    )
    assert seen == {
        "start": 3, "types": ["checkbox", "checkbox"], "checked": [True, False], "align": "right", "links": 0,
    }  # fmt: skip


@pytest.mark.parametrize("text", [">" * 5000 + " deep", "- " * 3000 + "x", "[" * 20000, "*" * 20000 + "x"])
def test_deep_nesting_is_drawn_in_some_form(chat: ChatPage, text: str) -> None:
    length = chat.page.evaluate(
        """async (text) => {
        const load = name => import(new URL(`static/js/${name}.js`, document.baseURI));
        const {MarkdownView} = await load('markdown');
        const root = document.createElement('div');
        const view = new MarkdownView(root);
        view.update(text.slice(0, 4000)); view.update(text); view.update(text, {final: true});
        return root.textContent.length; }""",
        text,
    )
    assert length > 0


def test_a_javascript_link_is_not_a_link(chat: ChatPage) -> None:
    hrefs = chat.page.evaluate(
        """async () => {
        const load = name => import(new URL(`static/js/${name}.js`, document.baseURI));
        const {MarkdownView} = await load('markdown');
        const root = document.createElement('div');
        const text = '[a](javascript:alert(1)) [b](data:text/html,x) [c](https://x.org)';
        new MarkdownView(root).update(text, {final: true});
        return [...root.querySelectorAll('a')].map((a) => a.getAttribute('href')); }"""
    )
    assert hrefs == [None, None, "https://x.org"]
