"""What other people's clients were promised, one row each: the request, what comes back, what reaches the engine.

A reader finds here that each promise is held. Where a promise needs more than one request and one answer, ``ELSEWHERE``
names the tests that hold it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest

from contract.paths import ROOT
from serving.gateway.core.guides import LENIENT
from tests.client.fake_triton import FakeTriton

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
FLAT: dict[str, Any] = {"type": "function", "name": "weather", "parameters": CITY}
SPACE = {"type": "namespace", "name": "agents", "description": "d", "tools": [FLAT]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}
CUT = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "K'}}
LOOP = {"max_pattern_size": 8, "min_count": 3}
ERROR, FIRST = "error.message", "choices.0.message"
CALL = f"{FIRST}.tool_calls.0.function"


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def called(text: str, **more: Any) -> dict[str, Any]:
    """A chat with a tool whose answer is ``text``."""
    return said(f"SAY {text}", tools=[TOOL], **more)


class Row(NamedTuple):
    """``answer`` and ``sent``: dotted path -> the value there, a pattern in its text, or None for what is absent."""

    promise: str
    path: str
    body: dict[str, Any] | None
    answer: dict[str, Any]
    sent: Mapping[str, Any] = MappingProxyType({})


IDS = [9707, 11, 1879]
KEPT = {"status": 200}
ROWS = [
    # Clients
    Row("lm-eval: scores of a prompt of ids", TEXT,
        {"prompt": [5, 6, 7], "max_tokens": 1, "logprobs": 1, "temperature": 0, "seed": 1234, "echo": True},
        {"choices.0.logprobs.token_logprobs": [None, -6.0, -7.0, -0.5]},
        {"input_ids": [5, 6, 7], "return_prompt_log_probs": True, "prompt_top_logprobs": 1, "seed": 1234}),
    Row("lm-eval: nothing but scores", TEXT, {"prompt": [5, 6, 7], "max_tokens": 0, "prompt_logprobs": 0},
        {"choices.0.prompt_logprobs.1.6.logprob": -6.0}, {"max_tokens": 0}),
    Row("lm-eval: its remote tokenizer", "/tokenizer_info", None, {"eos_token": "~"}),
    Row("ids in and out", TEXT, {"prompt": IDS, "max_tokens": 2, "return_token_ids": True},
        {"choices.0.prompt_token_ids": IDS, "choices.0.token_ids": [0, 1]}, {"input_ids": IDS, "text_input": None}),
    Row("ids that are no text", TEXT, {"prompt": [0] * 5, "max_tokens": 2}, KEPT, {"input_ids": [0] * 5}),
    Row("Codex: metadata and functions in namespaces", RESPONSES,
        {"input": 'SAY <tool_call>{"name": "agents.weather", "arguments": {"city": "K"}}</tool_call>',
         "client_metadata": {"a": "b"}, "tools": [SPACE]},
        {"output.0.namespace": "agents", "output.0.name": "weather", "output.0.arguments": '{"city": "K"}'}),
    Row("Codex: web search is refused with the remedy", RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]},
        {"error.param": "tools[0].type", ERROR: re.compile('web_search = "disabled" in config.toml')}),
    Row("Vercel: references need a store, and are told", RESPONSES,
        {"input": [{"type": "item_reference", "id": "m"}, {"role": "user", "content": "x"}]},
        {"error.param": "input[0].type", ERROR: re.compile("store: false")}),
    Row("store: true needs a store, and is told", RESPONSES, {"input": "x", "store": True},
        {"error.param": "store", ERROR: re.compile("GATEWAY_RESPONSES_STORE")}),
    Row("instructor: a forced tool wins over a format", CHAT,
        called('{"city": "K"}', tool_choice={"type": "function", "function": {"name": "weather"}},
               response_format=FORMAT),
        {"choices.0.finish_reason": "stop", f"{CALL}.arguments": '{"city": "K"}'},
        {"guided_decoding_guide": json.dumps(LENIENT | CITY, separators=(",", ":"))}),
    Row("parts by their names in responses, thoughts left out", CHAT,
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                      {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"},
                                                        {"type": "output_text", "text": "b"}]},
                      {"role": "user", "content": "SAY x"}]},
        {f"{FIRST}.content": "x"}, {"messages": re.compile('"a".*"content":"b"')}),
    Row("an empty model's name is none", CHAT, said("SAY x", model=""), {"model": "qwen-tiny"}),
    Row("Hugging Face's client: none was named", CHAT, said("SAY x", model="dummy"), {"model": "qwen-tiny"}),
    *(Row(f"changes nothing: {next(iter(field))}", CHAT, said("SAY x", **field), {f"{FIRST}.content": "x"})
      for field in ({"reasoning_effort": "none"}, {"verbosity": "medium"}, {"chat_template_kwargs": {"think": False}},
                    {"include_reasoning": False}, {"documents": []}, {"skip_special_tokens": True}, {"max_tokens": 4.0},
                    {"guided_decoding_backend": "xgrammar"})),
    Row("allowed tools", RESPONSES,
        {"input": "SAY x", "tools": [FLAT, FLAT | {"name": "time"}],
         "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]}},
        KEPT, {"tools": re.compile('^((?!weather).)*"time"')}),
    Row("reasoning items", RESPONSES,
        {"input": [{"type": "reasoning", "id": "r", "summary": []}, {"role": "user", "content": "SAY x"}]},
        {"output.0.content.0.text": "x"}),
    Row("null contents and no calls", CHAT,
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": "SAY x"}]},
        {f"{FIRST}.content": "x"}),
    Row("refusal is null", CHAT, said("SAY x"), {f"{FIRST}.refusal": None, f"{FIRST}.content": "x"}),
    Row("the stop string is named", CHAT, said("SAY a END", stop="END"), {"choices.0.stop_reason": "END"}),
    Row("the stop string is named behind min_tokens too", MESSAGES,
        said("SAY a END", stop_sequences=["END"], max_tokens=9, min_tokens=1),
        {"stop_reason": "stop_sequence", "stop_sequence": "END", "content.0.text": "a "}),
    Row("models", "/v1/models/", None, {"data.0.id": "qwen-tiny"}),
    Row("version", "/version", None, {"version": re.compile(r"\d")}),
    Row("ping", "/ping", None, KEPT),
    Row("load", "/load", None, {"server_load": 0}),
    Row("usage per chunk as vLLM", CHAT,
        said("SAY x", stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}),
        {"0.usage.completion_tokens": 0, "-2.usage.completion_tokens": 1, "-1.choices": []}),
    # Tools and schemas
    Row("auto: a call is one of the tools'", CHAT, called("x"), KEPT,
        {"guided_decoding_guide_type": "structural_tag", "guided_decoding_optional": True,
         "guided_decoding_guide": re.compile('"triggered_tags".*weather')}),
    Row("auto with a schema: it or calls", CHAT, called("x", response_format=FORMAT), KEPT,
        {"guided_decoding_guide": re.compile('"or"'), "guided_decoding_optional": None}),
    *(Row(f"repaired: {what}", CHAT, called(text),
          {f"{CALL}.name": "weather", f"{CALL}.arguments": arguments, "choices.0.finish_reason": "tool_calls"})
      for what, text, arguments in (
          ("an outer brace is missing", '<tool_call>{"name": "weather", "arguments": {"city": "K"}</tool_call>',
           '{"city": "K"}'),
          ("an extra brace", '<tool_call>{"name": "weather", "arguments": {"city": "K"}}}</tool_call>',
           '{"city": "K"}'),
          ("a raw newline", '<tool_call>{"name": "weather", "arguments": {"city": "a\nb"}}</tool_call>',
           r'{"city": "a\nb"}'),
          ("no arguments", '<tool_call>{"name": "weather"}</tool_call>', "{}"),
          ("null", '<tool_call>{"name": "weather", "arguments": null}</tool_call>', "{}"),
          ("empty text", '<tool_call>{"name": "weather", "arguments": ""}</tool_call>', "{}"),
      )),
    Row("repaired: two objects in one tag", CHAT,
        called('<tool_call>{"name": "weather", "arguments": {}}\n'
               '{"name": "weather", "arguments": {"city": "K"}}</tool_call>'),
        {f"{FIRST}.tool_calls.1.function.arguments": '{"city": "K"}'}),
    Row("a tag that is no call is text", CHAT, called("a  <tool_call> b"),
        {f"{FIRST}.content": "a  <tool_call> b", "choices.0.finish_reason": "stop"}),
    Row("a replayed call that was cut off", CHAT,
        {"tools": [TOOL], "messages": [{"role": "assistant", "content": None, "tool_calls": [CUT]},
                                       {"role": "tool", "tool_call_id": "c", "content": "y"},
                                       {"role": "user", "content": "SAY x"}]}, {f"{FIRST}.content": "x"}),
    Row("the same in responses", RESPONSES,
        {"input": [{"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "K'},
                   {"type": "function_call_output", "call_id": "c", "output": "y"},
                   {"role": "user", "content": "SAY x"}]}, {"output.0.content.0.text": "x"}),
    Row("an answer that is whole within max_tokens", CHAT, said("SAY {}", response_format=FORMAT, guided_complete=True),
        KEPT, {"guided_decoding_complete": True}),
    Row("128 tools with required fields", CHAT,
        said("SAY x", tools=[TOOL | {"function": TOOL["function"] | {"name": f"f{n}"}} for n in range(128)]),
        {f"{FIRST}.content": "x"}, {"guided_decoding_guide": re.compile("f127")}),
    Row("a loop is ended, and why is said", CHAT, said("LOOP a", max_tokens=4, repetition_detection=LOOP),
        {"choices.0.finish_reason": "repetition"}, {"repetition_detection": [8, 0, 3]}),
    Row("a loop goes on unless asked", CHAT, said("LOOP a", max_tokens=4), {"choices.0.finish_reason": "length"},
        {"repetition_detection": None}),
    # Anthropic's messages
    Row("messages", MESSAGES, said("SAY x", max_tokens=9, system="Be brief."),
        {"content.0.text": "x", "stop_reason": "end_turn"}),
    Row("messages: a tool", MESSAGES,
        said('SAY <tool_call>{"name": "weather", "arguments": {"city": "K"}}</tool_call>', max_tokens=99,
             tools=[{"name": "weather", "input_schema": CITY}]),
        {"content.0.type": "tool_use", "content.0.input": {"city": "K"}, "stop_reason": "tool_use"}),
]  # fmt: skip

ELSEWHERE = {
    "scores of prompts are those of transformers": "tests/oracle/test_smollm2.py::test_log_probabilities_of_prompts",
    "references resolve with a store": "tests/serving/gateway/test_responses.py::"
    "test_a_conversation_goes_on_from_what_is_stored",
    "keys as X-Api-Key": "tests/serving/gateway/test_limits.py::test_keys_and_their_token_budget",
    "metric names that dashboards read": "tests/serving/gateway/test_operations.py::test_what_dashboards_read",
    "the engine's metrics": "tests/triton/test_clients.py::test_what_dashboards_read_of_the_engine",
    "NVIDIA's client unchanged": "tests/triton/test_clients.py::test_nvidias_end_to_end_grpc_client",
    "unknown inputs over HTTP": "tests/triton/test_clients.py::"
    "test_what_no_input_is_called_is_refused_by_name_over_http",
    "HTTP/1.0 without chunks": "tests/serving/gateway/test_clients.py::test_http_1_0_has_no_chunks",
    "nothing redirects": "tests/serving/gateway/test_clients.py::test_nothing_redirects",
    "unknown formats": "tests/serving/test_json_schema.py::test_a_format_that_no_grammar_knows_is_an_annotation",
    "closed objects": "tests/serving/test_json_schema.py::test_objects_are_closed_unless_they_are_combined",
    "JSON that closes": "tests/serving/runtimes/openvino/test_endings.py::test_an_answer_is_whole_at_every_limit",
    "broken histories are mended": "tests/serving/tokenizer/test_prompt.py::"
    "test_a_replayed_call_that_was_cut_off_can_be_answered",
    "count_tokens": "tests/serving/gateway/test_real_triton.py::test_health_tokenize_and_metrics",
    "Anthropic's SDK streams": "tests/serving/gateway/test_messages.py::test_a_streamed_message",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.promise)
def test_a_promise(web: httpx.Client, fake: FakeTriton, row: Row) -> None:
    response = web.get(row.path) if row.body is None else web.post(row.path, json=row.body)
    refused = any(path.startswith("error") for path in row.answer)
    assert response.status_code == (400 if refused else 200), response.text
    for path, expected in row.answer.items():
        if path != "status":
            _check(_at(_body(response), path), expected, path)
    for name, expected in row.sent.items():
        _check(fake.requests[-1].get(name), expected, name)


@pytest.mark.parametrize("promise", ELSEWHERE)
def test_other_promises_have_their_tests(promise: str) -> None:
    file, _, name = ELSEWHERE[promise].partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def _body(response: httpx.Response) -> Any:
    """Of a stream the list of its events."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        return response.json()
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]


def _at(body: Any, path: str) -> Any:
    for part in path.split("."):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body


def _check(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, re.Pattern):
        assert expected.search(str(found)), f"{where}: {found}"
    else:
        assert found == expected, where
