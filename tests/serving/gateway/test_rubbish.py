"""What is not a good request: the right status, OpenAI's shape, the field's name, and the next request unharmed."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import httpx
import pytest

from serving.gateway.schema.others import FIXED, REFUSED
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT

GOOD: dict[str, Any] = {"messages": [{"role": "user", "content": "SAY ok"}]}


def refused(response: httpx.Response, status: int, param: str | None, words: str = "") -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert words in error["message"] and "\n" not in error["message"], error
    return error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'\xff\xfe{"messages": []}', "not JSON in UTF-8"),
        (b"[]", "send a JSON object"),
        (b'"text"', "send a JSON object"),
        (b"[" * 200, "nested too deeply: at most 100 levels"),
        (b"[" * 10_000, "nested too deeply: at most 100 levels"),
        (b"[" * 100_000, "more than 16384 objects and lists"),
    ],
)
def test_a_body_that_is_no_json_object(web: httpx.Client, body: bytes, words: str) -> None:
    for path in (CHAT, "/v1/completions", "/tokenize", "/detokenize"):
        refused(web.post(path, content=body), 400, None, words)
    assert web.post(CHAT, json=GOOD).status_code == 200


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b'{"temperature": NaN}', "temperature"), (b'{"messages": [{"content": -Infinity}]}', "messages[0].content"),
        (b'{"logit_bias": {"1": 1e400}}', "logit_bias.1"), (b'{"n": %b}' % (b"1" * 5000), "n"),
    ],
)  # fmt: skip
def test_a_number_that_json_does_not_have(web: httpx.Client, value: bytes, field: str) -> None:
    for path in (CHAT, "/v1/completions", "/v1/responses", "/tokenize"):
        refused(web.post(path, content=value), 400, field, "is no number of JSON; send")


@pytest.mark.parametrize("depth", [120, 300, 985, 1000, 1015, 1100, 8000])
@pytest.mark.parametrize("field", ["messages", "tools", "metadata", "prompt", "input", "system", "tokens", "frob"])
def test_a_body_that_is_nested_too_deep(web: httpx.Client, field: str, depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"%b":%b}' % (field.encode(), opening * depth + b"1" + closing * depth)
        for path in (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize"):
            answer = web.post(path, content=body)
            assert answer.status_code == 400, (path, answer.text)
            assert "nested too deeply: at most 100 levels" in answer.text, (path, answer.text)


def test_of_several_prompts_the_one_that_is_refused_is_named(web: httpx.Client) -> None:
    long = "the prompt has 2000 tokens, the context is 1000 and a prompt may take 999; shorten it or"
    for prompt, param in (
        (["SAY a", "ERR invalid_request text_input: the prompt is empty"], "prompt[1]"),
        ([f"ERR context_length_exceeded text_input: {long}", "SAY b"], "prompt[0]"),
        ([[1], [2**40], [3]], "prompt[1]"),
        (["ERR invalid_request text_input: the prompt is empty"], "prompt"),
    ):
        words = f"your {param} resulted in 2000" if "2000" in str(prompt) else param
        refused(web.post("/v1/completions", json={"prompt": prompt}), 400, param, words)


def test_a_text_too_long_to_tokenize_beside_streams(web: httpx.Client) -> None:
    for path, body in (("/tokenize", {"prompt": "a " * (1 << 20)}), ("/detokenize", {"tokens": [1] * (1 << 20)})):
        refused(web.post(path, json=body), 413, None, "2097152 bytes")


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": None}, "messages", ""),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'robot'"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "5"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type", "image_url is not supported",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]},
            "messages[0].function_call", "is not supported; send tool_calls",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio", "this model reads text"),
        ({"prompt": "a"}, "prompt", "here it is called messages"),
        ({"echo": True}, "echo", "is not supported"),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice",
            "another grammar (structured_outputs.regex and structured_outputs.choice); send one",
        ),
        ({"max_tokens": "10"}, "max_tokens", "'10'"),
        ({"max_tokens": 1.5}, "max_tokens", "1.5"),
        ({"max_tokens": True}, "max_tokens", "true"),
        ({"max_tokens": 2**40}, "max_tokens", "1099511627776 is out of range; give an integer between 0 and 21"),
        ({"max_tokens": 1e20}, "max_tokens", "1e+20 is out of range"),
        ({"max_tokens": 10**30}, "max_tokens", f"{10**30} is out of range; give an integer between 0 and 2147483647"),
        ({"n": 10**20}, "n", "100000000000000000000 is out of range; give an integer between 1 and 16"),
        ({"seed": 10**30}, "seed", f"{10**30} is out of range; give an integer between -9223372036854775808 and 18"),
        ({"seed": 1e18}, "seed", "1e+18 is wrong: write it as an integer, without a point or an exponent"),
        ({"stop": [10**30]}, "stop[0]", f"{10**30} is wrong: should be a string, not a number"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name", "missing; it is required",
        ),
        ({"temperature": "hot"}, "temperature", "'hot'"),
        ({"seed": 0.5}, "seed", "integer"),
        ({"logit_bias": {"dog": 1}}, "logit_bias", "'dog' is not a token id"),
        ({"logit_bias": {"1": "high"}}, "logit_bias", "a number between -100 and 100, not a string"),
        ({"n": 0}, "n", "between 1 and 16"),
        ({"n": 17}, "n", "between 1 and 16"),
        ({"stop": [1]}, "stop[0]", ""),
        ({"stream": "yes"}, "stream", "'yes'"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "regex", "pattrn": "a"}}, "response_format.pattrn", "takes regex or pattern or"),
        ({"ebnf": 'root ::= "a"'}, "ebnf", "use guided_grammar"),  # SGLang's
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema", "type json_object"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "a", "schema": {}}}},
            "response_format.json_schema", "type json_schema",
        ),
        ({"response_format": {"type": "json_object", "schema": {}, "value": {}}}, "response_format.value", "send one"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}, "triggers": []}},
            "response_format.triggers", "type structural_tag",
        ),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "send one"),
        ({"guided_choice": []}, "guided_choice", "empty"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"reasoningEffort": "low"}, "reasoningEffort", "did you mean reasoning_effort?"),
        ({"maxTokens": 5}, "maxTokens", "did you mean max_tokens?"),
        ({"xyzzy": 1}, "xyzzy", "no such field"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(
    web: httpx.Client, fake: FakeTriton, change: dict[str, Any], param: str, words: str
) -> None:
    refused(web.post(CHAT, json=GOOD | change), 400, param, words)
    assert fake.requests == [], "it must not reach the engine"


@pytest.mark.parametrize("name", [*FIXED, *REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(web: httpx.Client, name: str) -> None:
    error = refused(web.post(CHAT, json=GOOD | {name: "something"}), 400, name, "not supported")
    assert error["code"] == "unsupported"
    for harmless in (None, *(FIXED[name].allowed if name in FIXED else ())):
        assert web.post(CHAT, json=GOOD | {name: harmless}).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [({"prompt": []}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": ["x"] * 300}, "prompt"),
     ({"prompt": [2**31]}, "prompt"), ({}, "prompt"), ({"messages": [{"role": "user"}]}, "messages")],
)  # fmt: skip
def test_a_wrong_completion_is_named(web: httpx.Client, change: dict[str, Any], param: str) -> None:
    refused(web.post("/v1/completions", json=change), 400, param)


@pytest.mark.parametrize(
    ("change", "param"),
    [({"logit_bias": {"9" * 5000: 1}}, "logit_bias"), ({"seed": 2**64}, "seed"), ({"seed": -(2**63) - 1}, "seed")],
)
def test_numbers_beyond_their_range_are_refused(web: httpx.Client, change: dict[str, Any], param: str) -> None:
    refused(web.post(CHAT, content=json.dumps(GOOD | change)), 400, param)


def nested(depth: int) -> str:
    return '{"properties":' * depth + "{}" + "}" * depth


def test_a_schema_too_deep_is_refused_under_its_name(web: httpx.Client) -> None:
    body = '{"messages": [{"role": "user", "content": "SAY x"}], "%s": %s}'
    refused(web.post(CHAT, content=body % ("guided_json", nested(900))), 400, "guided_json", "deep")


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": [None] * 300_000}), (CHAT, {"messages": [1] * 300_000}),
     ("/v1/responses", {"input": [1] * 300_000}), ("/detokenize", {"tokens": [None] * 300_000})],
)  # fmt: skip
def test_the_first_wrong_element_is_enough(web: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """All complaints of a long list kept a worker, with every stream on it, busy for seconds."""
    start = time.process_time(), time.monotonic()
    answer = web.post(path, json=body)
    assert answer.status_code == 400
    assert time.monotonic() - start[1] < 2.0


@pytest.mark.parametrize("name", ["traceparent", "tracestate"])
@pytest.mark.parametrize("value", [b"\xe9abc", b"a\tb"])
def test_a_malformed_trace_context_is_ignored(web: httpx.Client, name: str, value: bytes) -> None:
    assert web.post(CHAT, json=GOOD, headers=[(name.encode(), value)]).status_code == 200


def test_empty_choices_and_log_probabilities_go_by_their_own_names(web: httpx.Client) -> None:
    refused(web.post(CHAT, json=GOOD | {"structured_outputs": {"choice": []}}), 400, "structured_outputs.choice")
    refused(
        web.post("/v1/completions", json={"prompt": "ERR invalid_request top_logprobs: -1 is out"}),
        400,
        "logprobs",
        "logprobs: -1",
    )
    error = refused(web.post(CHAT, json=GOOD | {"max_tokens": 2**40}), 400, "max_tokens", "between 0 and 2147483647")
    assert "format" not in error["message"]


def test_a_number_that_is_no_token_id_is_shown_in_digits(web: httpx.Client) -> None:
    error = refused(web.post("/v1/completions", json={"prompt": [1, 10**20]}), 400, "prompt[1]", str(10**20))
    assert "integer" in error["message"]


def test_a_compressed_body_is_refused_in_words(web: httpx.Client) -> None:
    body = gzip.compress(json.dumps(GOOD).encode())
    refused(web.post(CHAT, content=body, headers={"content-encoding": "gzip"}), 415, None, "gzip is not supported")
    assert web.post(CHAT, json=GOOD, headers={"content-encoding": "identity"}).status_code == 200


def test_paths_and_methods(web: httpx.Client) -> None:
    refused(web.get("/nope"), 404, None, "/nope")
    refused(web.post("/v1/embeddings", json={}), 404, None, "text only")
    for slip in (
        "/chat/completions",
        "/v1/chat/completion",
        "/v1/v1/chat/completions",
    ):  # a base URL with or without /v1
        refused(web.post(slip, json=GOOD), 404, None, "did you mean /v1/chat/completions?")
    wrong = web.get(CHAT)
    refused(wrong, 405, None, "is not for GET; send POST")
    page = web.post("/health")
    refused(page, 405, None, "is not for POST; send GET, HEAD")
    assert page.headers["allow"] == "GET, HEAD"  # in this order, whichever worker answers
    for path, kind in (("/v1/messages", "invalid_request_error"), ("/v1/messages/batches", "not_found_error")):
        error = web.get(path).json()
        assert (error["type"], error["error"]["type"]) == ("error", kind), "Anthropic's shape below Anthropic's path"
    assert "POST" in wrong.headers["allow"]
    refused(web.get("/v1/models/gpt-4"), 404, "model", "not served")


def test_a_hundred_megabytes_are_not_read(web: httpx.Client, gateway: Any) -> None:
    sent = 0

    def body() -> Any:
        nonlocal sent
        for _ in range(1600):
            sent += 1 << 16
            yield b" " * (1 << 16)

    refused(web.post(CHAT, content=body()), 413, None, "8388608 bytes")
    refused(web.post(CHAT, content=b"x" * (9 << 20)), 413, None, "8388608 bytes")
    assert web.post(CHAT, json=GOOD).status_code == 200


def test_tokenize_and_detokenize(web: httpx.Client) -> None:
    there = web.post("/tokenize", json={"prompt": "hé", "return_token_strs": True}).json()
    assert there["token_strs"] == ["h", "Ã", "©"], "the vocabulary's names, as vLLM's: they lose no half character"
    assert there["count"] == len(there["tokens"]) == 3 and there["max_model_len"] == 1024
    assert web.post("/detokenize", json={"tokens": there["tokens"]}).json() == {"prompt": "hé"}
    refused(web.post("/tokenize", json={}), 400, "prompt", "exactly one")
    refused(web.post("/detokenize", json={"tokens": [-1]}), 400, "tokens", "-1")
    refused(web.post("/tokenize", json={"prompt": "x", "model": "gpt"}), 404, "model")
