"""Bad input through the real server: one clear sentence, and the next request unharmed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from contract.errors import from_wire
from tests.conftest import Server
from tests.triton.calls import Stream, ask, generate

pytestmark = pytest.mark.triton
LONG = "word " * 40_000  # the simulated engine's context is 32,768 tokens

BAD: list[tuple[str, dict[str, Any]]] = [
    ("text_input: missing; send exactly one of text_input, messages and input_ids", {"max_tokens": 4}),
    ("text_input: given beside messages; send exactly one", {"text_input": "a", "messages": "[]"}),
    ("text_input: the prompt is empty", {"text_input": ""}),
    (r"text_input: the prompt has 4\d{4} tokens, the context is 32768", {"text_input": LONG}),
    ("messages: not JSON", {"messages": "[{"}),
    (r"messages: not JSON \(nested too deeply: at most 100 levels", {"messages": "[" * 50_000}),
    (r"messages: messages\[0\] has role 'robot'", {"messages": '[{"role": "robot", "content": "a"}]'}),
    (r"messages: '\\ud800' is half a surrogate", {"messages": '[{"role": "user", "content": "\\ud800"}]'}),
    ("max_tokens: 0 answers nothing; give at least 1, or ask for", {"text_input": "a", "max_tokens": 0}),
    ("max_tokens: -1 is out of range", {"text_input": "a", "max_tokens": -1}),
    ("max_tokens: 40000 with a prompt of 1 tokens exceeds the context", {"text_input": "a", "max_tokens": 40_000}),
    ("top_p: 2 is out of range", {"text_input": "a", "top_p": 2.0}),
    ("guided_decoding_guide_type: 'xml' is unknown", {"text_input": "a", "guided_decoding_guide_type": "xml"}),
    (
        "guided_decoding_guide_type json: the loaded engine cannot honour it",
        {"text_input": "a", "guided_decoding_guide_type": "json"},
    ),
    ("allowed_token_ids: the loaded engine cannot honour it", {"text_input": "a", "allowed_token_ids": [5]}),
    ("lora_name: the loaded engine cannot honour it", {"text_input": "a", "lora_name": "x"}),
    ("beam_width: 4 is not served", {"text_input": "a", "beam_width": 4}),
    ("stop_words: 65 strings are too many", {"text_input": "a", "stop_words": [f"s{i}" for i in range(65)]}),
    ("stop: true needs the Triton request id", {"stop": True}),
]
ONLY_TENSORS: list[tuple[str, dict[str, Any]]] = [
    # not over HTTP: a body of 8 MB overflows the stack of Triton 2.51's HTTP server (CVE-2025-23310)
    (r"text_input: the prompt has at least \d+ tokens, the context is 32768", {"text_input": "=" * 8_000_000}),
    (
        "prompt_top_logprobs: 20 for each of 20000 tokens are too many; give at most 12",
        {"input_ids": [1] * 20_000, "return_prompt_log_probs": True, "prompt_top_logprobs": 20},
    ),
    ("allowed_token_ids: the list is empty", {"text_input": "a", "allowed_token_ids": []}),
    ("temperature: nan is out of range", {"text_input": "a", "temperature": math.nan}),
    (r"text_input: byte 1 of b'a\\xff' is not UTF-8", {"text_input": b"a\xff"}),
    ("text_input: a batch of 2; one request carries one prompt, send 2 requests", {"batch": 2, "text_input": "a"}),
]


@pytest.mark.parametrize(("expected", "values"), BAD, ids=[case[0][:40] for case in BAD])
def test_http(expected: str, values: dict[str, Any], server: Server) -> None:
    status, answer = generate(server.http, values)
    assert status == 400
    check(expected, answer["error"])
    status, answer = generate(server.http, {"text_input": "Hi", "max_tokens": 2})
    assert status == 200 and answer["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_grpc(stream: bool, server: Server) -> None:
    """All of them on one connection, a good request after each."""
    with Stream(server.grpc) as connection:
        for expected, values in BAD + ONLY_TENSORS:
            connection.send(**values, stream=stream)
            error = connection.answer().error
            assert error is not None, expected
            check(expected, error.message())
            connection.send(text_input="Hi", max_tokens=2, stream=stream)
            assert connection.answer().completion_tokens == 2


def check(expected: str, error: str) -> None:
    found = from_wire(error)
    assert found is not None, f"no code word: {error}"
    line = str(found)
    assert re.match(expected, line), line
    assert (found.code == "context_length_exceeded") == ("the context" in expected)
    assert (found.code == "unsupported") == ("cannot honour" in expected or "not served" in expected)
    assert "\n" not in line and "Traceback" not in line and len(line) < 400


def test_what_triton_itself_refuses(server: Server) -> None:
    for body in (b"{", b"[]", json.dumps({"text_input": "a", "max_tokens": "many"}).encode(), b'{"text_input": 5}'):
        status, answer = generate(server.http, body)
        assert status >= 400 and answer["error"]
    assert generate(server.http, {"text_input": "Hi", "max_tokens": 2})[0] == 200


def test_invalid_utf8_over_http(server: Server) -> None:
    status, answer = generate(server.http, b'{"text_input": "a\xff", "max_tokens": 2}')
    assert status == 400
    check(r"text_input: byte 1 of b'a\\xff' is not UTF-8", answer["error"])


def test_a_duplicate_live_id(server: Server, says: Callable[[str, int, int], str]) -> None:
    with Stream(server.grpc) as first:
        first.send("twin", text_input="Hi", max_tokens=200, seed=1, stream=True)
        begun = first.next()
        refused = ask(server.grpc, request_id="twin", text_input="Hi", max_tokens=2)
        assert refused.error is not None
        check("request_id: 'twin' is running; use a new id for every request", refused.error.message())
        rest = first.answer()
        assert begun.as_numpy("text_output")[0].decode() + rest.text == says("Hi", 1, 200)
    assert ask(server.grpc, request_id="twin", text_input="Hi", max_tokens=2).completion_tokens == 2


def test_neighbours_in_one_batch_are_unharmed(server: Server, says: Callable[[str, int, int], str]) -> None:
    """Good and bad requests at once: Triton hands them to the tokenizer together."""
    with Stream(server.grpc) as good, Stream(server.grpc) as bad:
        for seed in range(30):
            bad.send(messages='[{"role": "user", "content": "\\ud800"}]')
            good.send(text_input="Hi", max_tokens=3, seed=seed)
        assert [good.answer().text for _ in range(30)] and [bad.answer().error is None for _ in range(30)] == [
            False
        ] * 30
    assert ask(server.grpc, text_input="Hi", max_tokens=3, seed=1).text == says("Hi", 1, 3)
