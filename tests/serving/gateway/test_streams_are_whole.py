"""What an official SDK gathers from a stream is the answer that is not streamed, to the last field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.serving.gateway.conftest import RunningGateway

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
ANSWERS = {  # what the model says; the most tokens, of three letters each; further fields
    "text": ("SAY hello 世界", 99),
    "nothing": ("SAY ", 99),
    "cut": ("SAY one two three", 2),
    "a call": (f"SAY {CALL}", 99),
    "text and a call": (f"SAY Let me look.\n{CALL}", 99),
    "two calls": (f"SAY {CALL}\n{CALL}", 99),
    "a call and text": (f"SAY {CALL}\nThere.", 99),
    "a call that is cut": (f"SAY {CALL}", 18),
    "text between two calls": (f"SAY {CALL}\nAnd now\n{CALL}", 99),
    "no call in the tag": ("SAY Look: <tool_call>exec<arg_key>input</arg_key>`cat x`", 99),
    "a call that never ends": ('SAY <tool_call>\n{"name": "weather", "arguments": {"city": "K', 99),
    "half a tag": ("SAY Look: <tool_ca", 99),
    "a tag and nothing": ("SAY Look: <tool_call>", 99),
}
PASSING = ("id", "created_at", "completed_at", "call_id")  # differ from one answer to the next


@pytest.fixture
def claude(gateway: RunningGateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def lasting(value: Any) -> Any:
    """Without what differs each time, and without the nulls that an SDK's types add."""
    if isinstance(value, list):
        return [lasting(part) for part in value]
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in PASSING and v is not None}
    return value


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("more", [{}, {"logprobs": True}, {"return_token_ids": True}], ids=str)
def test_a_chat(web: httpx.Client, case: str, more: dict[str, Any]) -> None:
    """Down to the difference between null content and an empty one, which clients tell calls by."""
    said, most = ANSWERS[case]
    tool = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
    body = {"messages": [{"role": "user", "content": said}], "max_tokens": most, "tools": [tool], **more}
    whole = web.post("/v1/chat/completions", json=body).json()["choices"][0]
    text = web.post("/v1/chat/completions", json=body | {"stream": True}).text
    told = [json.loads(line.removeprefix("data: "))["choices"][0] for line in text.split("\n\n")[:-2]]
    deltas = [choice["delta"] for choice in told]
    contents = [delta["content"] for delta in deltas if delta.get("content") is not None]
    calls: list[dict[str, str]] = []
    for call in (call for delta in deltas for call in delta.get("tool_calls", ())):
        if call["index"] == len(calls):
            calls.append({"name": call["function"]["name"], "arguments": ""})
        calls[call["index"]]["arguments"] += call["function"]["arguments"]
    assert ("".join(contents) if contents else None) == whole["message"]["content"]
    assert calls == [call["function"] for call in whole["message"].get("tool_calls", ())]
    assert [choice["finish_reason"] for choice in told] == [None] * (len(told) - 1) + [whole["finish_reason"]]
    scores = [score for choice in told for score in (choice["logprobs"] or {"content": []})["content"]]
    assert scores == (whole["logprobs"] or {"content": []})["content"] and bool(scores) == ("logprobs" in more)
    ids = [token for choice in told for token in choice.get("token_ids", ())]
    assert ids == (whole["token_ids"] or []) and bool(ids) == ("return_token_ids" in more)


@pytest.mark.parametrize("case", ANSWERS)
def test_a_response(sdk: openai.OpenAI, case: str) -> None:
    said, most = ANSWERS[case]
    tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    asked: Any = {"model": "qwen", "input": said, "max_output_tokens": most, "tools": [tool]}
    whole = sdk.responses.create(**asked).model_dump()
    with sdk.responses.stream(**asked) as stream:
        events = list(stream)
    final: Any = events[-1]
    assert lasting(_unparsed(final.response.model_dump(warnings=False))) == lasting(whole)
    assert final.type == ("response.incomplete" if "cut" in case else "response.completed")


def _unparsed(value: Any) -> Any:
    """Without the fields that only the SDK's ``.stream()`` has."""
    if isinstance(value, list):
        return [_unparsed(part) for part in value]
    if isinstance(value, dict):
        return {k: _unparsed(v) for k, v in value.items() if k not in ("parsed", "parsed_arguments")}
    return value


@pytest.mark.parametrize("case", ANSWERS)
def test_the_events_of_a_response_build_it(web: httpx.Client, case: str) -> None:
    """Numbered without a gap; each item is added, filled by deltas alone, and done, before the next one."""
    said, most = ANSWERS[case]
    tools = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]
    body = {"input": said, "max_output_tokens": most, "tools": tools, "stream": True}
    events = _events(web, "/v1/responses", body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    items: list[dict[str, Any]] = []
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items) and event["item"]["status"] == "in_progress"
            items.append({"text": "", "id": event["item"]["id"], "kinds": []})
        item = items[-1]
        item["kinds"].append(kind)
        assert event["output_index"] == len(items) - 1
        assert event.get("item_id", item["id"]) == item["id"]
        if kind.endswith(".delta"):
            item["text"] += event["delta"]
        elif kind in ("output_text.done", "function_call_arguments.done"):
            assert item["text"] == event["text" if kind == "output_text.done" else "arguments"]
        elif kind == "output_item.done":
            assert event["item"]["id"] == item["id"] and event["item"]["status"] != "in_progress"
    for item, done in zip(items, events[-1]["response"]["output"], strict=True):
        kinds = [kind for kind in item["kinds"] if not kind.endswith(".delta")]
        part = ["content_part.added", "output_text.done", "content_part.done"]
        inner = part if done["type"] == "message" else ["function_call_arguments.done"]
        assert kinds == ["output_item.added", *inner, "output_item.done"] and item["id"] == done["id"]


@pytest.mark.parametrize("case", ANSWERS)
def test_a_message(claude: anthropic.Anthropic, case: str) -> None:
    said, most = ANSWERS[case]
    tool: Any = {"name": "weather", "input_schema": PARAMETERS}
    asked: Any = {"model": "qwen", "max_tokens": most, "messages": [{"role": "user", "content": said}], "tools": [tool]}
    whole = claude.messages.create(**asked).model_dump()
    with claude.messages.stream(**asked) as stream:
        final = stream.get_final_message().model_dump()
    assert lasting(_unparsed(final)) == lasting(whole)


@pytest.mark.parametrize("case", ANSWERS)
def test_the_events_of_a_message_are_in_order(web: httpx.Client, case: str) -> None:
    said, most = ANSWERS[case]
    body = {"max_tokens": most, "messages": [{"role": "user", "content": said}], "stream": True,
            "tools": [{"name": "weather", "input_schema": PARAMETERS}]}  # fmt: skip
    events = _events(web, "/v1/messages", body)
    assert [e["type"] for e in (events[0], *events[-2:])] == ["message_start", "message_delta", "message_stop"]
    assert events[0]["message"]["content"] == [] and events[0]["message"]["stop_reason"] is None
    at, is_open = -1, False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert not is_open
            at, is_open = at + 1, True
        assert is_open and event["index"] == at
        is_open = event["type"] != "content_block_stop"
    assert not is_open


def _events(web: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Each has its name on the line before, as both SDKs want it."""
    found = []
    for block in web.post(path, json=body).text.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found
