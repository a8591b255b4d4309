"""The SSE reader, whatever the line endings and wherever the network cuts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.errors import TransportError
from loadtest.transports.sse_reader import SseReader

CONTINUOUS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "你"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 1}},
    {"choices": [{"delta": {"content": ""}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    {"choices": [{"delta": {"content": "好 a\nb"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
    {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7, "completion_tokens": 6}},
    {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 4}},
    },
]
LAST = [
    {"choices": [{"delta": {"content": "a"}}]},
    {"choices": [{"delta": {"content": "b"}, "finish_reason": "length"}], "usage": None},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
]


def answer(chunks: list[dict[str, Any]], end: str = "\n", done: bool = True, status: str = "200 OK") -> bytes:
    events = [json.dumps(chunk, ensure_ascii=False) for chunk in chunks] + ["[DONE]"] * done
    body = "".join(f": a comment{end}event: message{end}data: {event}{end}{end}" for event in events).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def read(data: bytes, cuts: list[int], leave: int = 10**9) -> tuple[SseReader, list[int]]:
    seen: list[int] = []

    def on_message(stamp: float, tokens: int) -> bool:
        seen.append(tokens)
        return tokens < leave

    reader, at, k = SseReader(on_message), 0, 0
    while at < len(data):
        size = cuts[k % len(cuts)]
        if not reader.feed(data[at : at + size], 0.0):
            break
        at, k = at + size, k + 1
    return reader, seen


@given(st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(1, 80), min_size=1, max_size=40))
@settings(max_examples=80)
def test_tokens_and_text_survive_any_cut(end: str, cuts: list[int]) -> None:
    reader, seen = read(answer(CONTINUOUS, end), cuts)
    found = reader.finished()
    assert seen == [1, 2, 5, 6] and found.text == "你好 a\nb" and found.finish_reason == "stop"
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (7, 6, 4)


def test_usage_in_the_last_chunk_puts_the_count_right() -> None:
    reader, seen = read(answer(LAST), [9999])
    assert seen == [1, 2] and reader.finished().completion_tokens == 4


def test_a_user_who_leaves_hears_no_more() -> None:
    reader, seen = read(answer(CONTINUOUS), [9999], leave=2)
    assert seen == [1, 2] and reader.finished().left


def test_a_reason_ends_an_answer_as_well_as_done_does() -> None:
    reader, _ = read(answer(CONTINUOUS, done=False), [50])
    assert reader.finished().completion_tokens == 6


def test_a_stream_without_its_end_was_cut() -> None:
    reader, _ = read(answer(CONTINUOUS[:3], done=False), [50])
    with pytest.raises(TransportError, match="cut_short"):
        reader.finished()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("429 Too Many Requests", "queue_full"),
        ("400 Bad Request", "invalid_request"),
        ("502 Bad", "engine_unavailable"),
    ],
)
def test_refusals_are_counted_by_kind(status: str, kind: str) -> None:
    body = b'{"error": {"message": "no"}}'
    reader, _ = read(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body, [7])
    with pytest.raises(TransportError, match=f"^{kind}: HTTP {status[:3]}: no$"):
        reader.finished()


def test_an_error_inside_the_stream_ends_it() -> None:
    with pytest.raises(TransportError, match="engine_dead: gone"):
        read(answer([*LAST[:1], {"error": {"code": "engine_dead", "message": "gone"}}]), [9999])


def test_halves_of_a_character_are_one_again() -> None:
    halves = [rb'{"choices": [{"delta": {"content": "\ud83d"}}]}', rb'{"choices": [{"delta": {"content": "\ude00"}}]}']
    body = b"".join(b"data: " + half + b"\n\n" for half in (*halves, b"[DONE]"))
    reader, seen = read(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body, [9])
    assert seen == [1, 2] and reader.finished().text == "\U0001f600"


@pytest.mark.parametrize(
    "raw",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip.",
        answer([{"choices": [{"delta": {"content": 7}}]}]),
    ],
)
def test_what_is_no_answer_is_a_transport_error(raw: bytes) -> None:
    """Anything else was a traceback of the question that is asked before the run."""
    with pytest.raises(TransportError, match=r"^protocol: "):
        read(raw, [99])[0].finished()
