"""What an answer's bytes look like to its client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serving.gateway.core.writer import on_their_lines

TEXTS = [
    "a\u2028b",
    "\u2029",
    "\x85\x85",
    "\\\u2028",
    '"\u2028"',
    "“quoted” — …",
    "\x0b\x0c\x1c\x1d\x1e\r\n",
    "é ✅ 你好 😀",
    "plain",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_ends_no_line_and_stays_the_same(text: str) -> None:
    raw = f"data: {json.dumps(text, ensure_ascii=False)}\n\n"
    (line, empty) = on_their_lines(raw.encode()).decode().splitlines()
    assert json.loads(line.removeprefix("data: ")) == text and empty == ""
    if not set(text) & set("\x85\u2028\u2029"):
        assert on_their_lines(raw.encode()) == raw.encode()


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_httpx_reads_a_stream_line_by_line(web: httpx.Client, path: str) -> None:
    said = "SAY one\u2028two\u2029three\x85four"
    asked = (
        {"input": said} if path == "responses" else {"messages": [{"role": "user", "content": said}], "max_tokens": 99}
    )
    with web.stream("POST", f"/v1/{path}", json={"model": "qwen", "stream": True, **asked}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line and not line.startswith("event: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    assert "".join(filter(None, map(_text, events))) == said.removeprefix("SAY ")


def _text(event: dict[str, Any]) -> str | None:
    """What one event of any of the three adds to the text."""
    if "choices" in event:
        delta = event["choices"][0]["delta"]
    elif event["type"] == "content_block_delta":
        delta = event["delta"]
    else:
        delta = {"text": event["delta"]} if event["type"] == "response.output_text.delta" else {}
    text: str | None = delta.get("content", delta.get("text"))
    return text
