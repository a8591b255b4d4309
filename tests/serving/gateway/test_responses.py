"""/v1/responses as the official SDK, LangChain and plain HTTP see it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from serving.gateway.core.choices import ChoiceUpdate
from serving.gateway.core.render.responses import Items
from serving.gateway.core.tools import CallArguments, CallStart
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.conftest import RunningGateway
from tests.serving.gateway.test_rubbish import refused

PATH = "/v1/responses"
WEATHER: dict[str, Any] = {
    "type": "function", "name": "weather", "description": "Weather of a city", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                   "additionalProperties": False},
}  # fmt: skip
CALL = 'SAY Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
MESSAGE_EVENTS = [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done",
]  # fmt: skip


class City(BaseModel):
    name: str


def test_whole(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    answer = sdk.responses.create(model="qwen", input="SAY hello 世界", instructions="Be brief.", temperature=0.5)
    assert (answer.output_text, answer.status, answer.error) == ("hello 世界", "completed", None)
    assert answer.id.startswith("resp_") and answer.temperature == 0.5 and answer.instructions == "Be brief."
    assert answer.usage is not None and answer.usage.input_tokens_details.cached_tokens == 3
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens == 3
    sent = json.loads(fake.requests[0]["messages"])
    assert sent == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "SAY hello 世界"}]


def test_streamed_events_are_typed_numbered_and_whole(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model="qwen", input="SAY one two three", stream=True))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == [*MESSAGE_EVENTS, "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed" and text == last.response.output_text == "one two three"
    assert last.response.usage is not None and last.response.usage.output_tokens == 5
    first = events[0]
    assert first.type == "response.created" and first.response.status == "in_progress"
    assert first.response.id == last.response.id


def test_the_sdks_stream_helper_collects_it(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="qwen", input="SAY a b") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "a b"


def test_an_answer_that_was_cut_is_incomplete(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model="qwen", input="x", max_output_tokens=2)
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    *_, last = sdk.responses.create(model="qwen", input="x", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete" and last.response.output[0].status == "incomplete"


def test_an_empty_answer_is_an_empty_message(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model="qwen", input="SAY ")
    assert answer.output_text == "" and answer.output[0].type == "message"
    kinds = [event.type for event in sdk.responses.create(model="qwen", input="SAY ", stream=True)]
    assert [k for k in kinds if k != "response.output_text.delta"] == [
        k for k in [*MESSAGE_EVENTS, "response.completed"] if k != "response.output_text.delta"
    ]


def test_a_function_is_called_and_its_output_goes_back(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    answer = sdk.responses.create(model="qwen", input=CALL, tools=[WEATHER])
    assert [item.type for item in answer.output] == ["message", "function_call"]
    call = answer.output[1]
    assert call.type == "function_call" and (call.name, json.loads(call.arguments)) == ("weather", {"city": "Köln"})
    fake.requests.clear()
    history: Any = [{"role": "user", "content": CALL}, *(item.model_dump() for item in answer.output)]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    sdk.responses.create(model="qwen", input=history, tools=[WEATHER])
    user, assistant, tool = json.loads(fake.requests[0]["messages"])
    assert user["role"] == "user" and assistant["content"] == "Let me look."
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": call.arguments}
    assert tool == {"role": "tool", "content": "rain", "tool_call_id": call.call_id}


def test_a_function_call_streams(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model="qwen", input=CALL, tools=[WEATHER], stream=True))
    pieces = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    done = next(e for e in events if e.type == "response.function_call_arguments.done")
    assert json.loads(pieces) == {"city": "Köln"} and done.arguments == pieces
    added = [e for e in events if e.type == "response.output_item.added"]
    assert [(e.output_index, e.item.type) for e in added] == [(0, "message"), (1, "function_call")]
    assert events[-1].response.output[1].id == added[1].item.id == done.item_id


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_forced_call_is_a_grammar(web: httpx.Client, fake: FakeTriton, choice: Any) -> None:
    body = {"input": "SAY x", "tools": [WEATHER], "tool_choice": choice}
    assert web.post(PATH, json=body).status_code == 200
    assert fake.requests[0]["guided_decoding_guide_type"] == "json_schema"
    assert '"city"' in fake.requests[0]["guided_decoding_guide"]


def test_parse_gives_the_pydantic_object(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    answer = sdk.responses.parse(model="qwen", input='SAY {"name": "Bonn"}', text_format=City)
    assert answer.output_parsed == City(name="Bonn")
    assert '"name"' in fake.requests[0]["guided_decoding_guide"]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(sdk: openai.OpenAI, stream: bool) -> None:
    wanted: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 3}
    if stream:
        events = list(sdk.responses.create(model="qwen", input="x", stream=True, **wanted))
        found = [p for e in events if e.type == "response.output_text.delta" for p in e.logprobs]
    else:
        message = sdk.responses.create(model="qwen", input="x", **wanted).output[0]
        assert message.type == "message" and message.content[0].type == "output_text"
        found = message.content[0].logprobs or []
    assert [(p.token, p.logprob) for p in found] == [("!", -0.5), ('"', -0.5), ("#", -0.5)]
    assert [t.token for t in found[0].top_logprobs or []] == ["!", '"']


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_beside_a_function_call(sdk: openai.OpenAI, stream: bool) -> None:
    """The tokens of a call belong to no text; those before it do."""
    wanted: Any = {"include": ["message.output_text.logprobs"], "tools": [WEATHER]}
    answer = sdk.responses.create(model="qwen", input=CALL, **wanted) if not stream else None
    if answer is None:
        *_, last = sdk.responses.create(model="qwen", input=CALL, stream=True, **wanted)
        answer = last.response
    assert [item.type for item in answer.output] == ["message", "function_call"]
    assert json.loads(answer.output[1].arguments) == {"city": "Köln"}


def test_a_call_that_was_complete_when_the_answer_was_cut_is_complete() -> None:
    items = Items(one_call=True, namespaces={})
    for event in (CallStart(0, "f"), CallArguments(0, "{}"), CallStart(1, "g"), CallArguments(1, '{"a')):
        items.add(ChoiceUpdate("", [event], [], None, None))
    items.add(ChoiceUpdate("", [], [], None, "length"))
    assert [(item["name"], item["status"]) for item in items.done] == [("f", "completed")]
    cut = Items(one_call=False, namespaces={})
    cut.add(ChoiceUpdate("", [CallStart(0, "f"), CallArguments(0, '{"a')], [], None, "length"))
    assert cut.done[0]["status"] == "incomplete"


@pytest.mark.parametrize(
    "change",
    [
        {"reasoning": {"effort": None, "summary": None}}, {"include": ["web_search_call.action.sources"]},
        {"max_tool_calls": 5}, {"image": None}, {"stream_options": {"include_obfuscation": None}, "stream": True},
        {"stream_options": {"include_usage": True}, "stream": True},
        {"input": [{"type": None, "role": "user", "content": "SAY x"}]}, {"structured_outputs": None},
        {"store": False, "background": False, "truncation": "disabled", "include": [], "tools": [], "text": {}},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_taken(web: httpx.Client, change: dict[str, Any]) -> None:
    answer = web.post(PATH, json={"input": "SAY x"} | change)
    assert answer.status_code == 200, answer.text


def test_a_refusal_that_is_sent_back_keeps_its_words(web: httpx.Client, fake: FakeTriton) -> None:
    parts = [{"type": "refusal", "refusal": "no way"}]
    history = [{"role": "assistant", "content": parts}, {"role": "user", "content": "SAY x"}]
    assert web.post(PATH, json={"input": history}).status_code == 200
    assert web.post("/v1/chat/completions", json={"messages": history}).status_code == 200
    assert [json.loads(sent["messages"])[0]["content"] for sent in fake.requests] == ["no way", "no way"]


def test_an_error_in_mid_stream_is_a_typed_event(web: httpx.Client) -> None:
    text = web.post(PATH, json={"input": "MID engine_unavailable engine: the worker died", "stream": True}).text
    name, data = text.strip().split("\n\n")[-1].split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert name == "event: error" and event["type"] == "error" and event["message"] == "engine: the worker died"
    assert event["sequence_number"] == text.count("event: response.") and event["error"]["status"] == 503


def test_an_error_in_mid_stream_is_raised(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="the worker died"):
        list(sdk.responses.create(model="qwen", input="MID engine_unavailable engine: the worker died", stream=True))


async def test_langchain_streams_a_response(gateway: RunningGateway) -> None:
    from langchain_openai import ChatOpenAI

    async with httpx.AsyncClient(trust_env=False) as own:  # langchain shares one per URL, beyond this event loop's life
        chat = ChatOpenAI(
            model="qwen", base_url=f"{gateway.url}/v1", api_key="none", use_responses_api=True, http_async_client=own
        )
        parts = [part async for part in chat.astream("SAY from a chain")]
    assert "".join(str(part.text) for part in parts) == "from a chain"


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input": []}, "input", "at least one"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type", "reads text"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
        ({"store": True}, "store", "store: true is not supported: nothing is stored"),
        ({"max_output_tokens": 0}, "max_output_tokens", "0 is wrong: should be greater than or equal to 1"),
        ({"background": True}, "background", "caller waits"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "none"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id", "missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "missing"),
        ({"logprobs": True}, "logprobs", "include"),
        ({"messages": [{}]}, "messages", "called input"),
        ({"max_tokens": 3}, "max_tokens", "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name", "weather"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "missing"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "missing"),
        ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema", "type json_schema"),
        ({"top_logprobs": 2}, "top_logprobs", "include"),
        ({"input": "ERR invalid_request max_tokens: 0 is out"}, "max_output_tokens", "max_output_tokens: 0 is"),
        ({"input": "ERR invalid_request messages: the prompt is wrong"}, "input", "the prompt is wrong"),
        ({"poem": 1}, "poem", "no such field"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    web: httpx.Client, change: dict[str, Any], param: str, words: str
) -> None:
    refused(web.post(PATH, json={"input": "x"} | change), 400, param, words)


def test_without_a_store_everything_is_stateless(web: httpx.Client) -> None:
    for body in ({"store": True}, {"previous_response_id": "resp_1"}):
        error = refused(
            web.post(PATH, json={"input": "SAY x", **body}), 400, next(iter(body)), "GATEWAY_RESPONSES_STORE"
        )
        assert error["code"] == "unsupported"
    assert web.get(f"{PATH}/resp_1").status_code == 404
    assert web.post(PATH, json={"input": "SAY x", "store": False}).json()["store"] is False


def test_a_conversation_goes_on_from_what_is_stored(own_gateway: Any, fake: FakeTriton) -> None:
    """Over several workers, whole and streamed; and Vercel's AI SDK, which sends references to items."""
    running = own_gateway(GATEWAY_RESPONSES_STORE="1000000")
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as sdk:
        first = sdk.responses.create(model="qwen", input="SAY one", instructions="Be brief.")
        with sdk.responses.stream(model="qwen", input="SAY two", previous_response_id=first.id) as stream:
            second = stream.get_final_response()
        for _ in range(6):  # whichever worker answers
            sdk.responses.create(model="qwen", input="SAY three", previous_response_id=second.id, store=False)
            assert [m["content"] for m in json.loads(fake.requests[-1]["messages"])] == [
                "SAY one", "one", "SAY two", "two", "SAY three",
            ]  # fmt: skip
            assert sdk.responses.retrieve(first.id).output_text == "one"
        assert second.previous_response_id == first.id
        reference: Any = {"type": "item_reference", "id": second.output[0].id}
        sdk.responses.create(
            model="qwen", input=[{"role": "user", "content": "a"}, reference, {"role": "user", "content": "SAY b"}]
        )
        assert [m["content"] for m in json.loads(fake.requests[-1]["messages"])] == ["a", "two", "SAY b"]
        unkept = sdk.responses.create(model="qwen", input="SAY x", store=False)
        sdk.responses.delete(first.id)
        for gone in (first.id, unkept.id):
            with pytest.raises(openai.NotFoundError):
                sdk.responses.retrieve(gone)
            with pytest.raises(openai.BadRequestError) as caught:
                sdk.responses.create(model="qwen", input="SAY x", previous_response_id=gone)
            assert caught.value.code == "previous_response_not_found"


def test_a_stored_response_is_its_keys_own(own_gateway: Any) -> None:
    url = own_gateway(GATEWAY_RESPONSES_STORE="1000000", GATEWAY_API_KEYS="one,two").url
    with httpx.Client(base_url=url, trust_env=False) as web:
        mine, other = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
        kept = web.post(PATH, json={"input": "SAY x"}, headers=mine).json()
        assert kept["store"] is True and web.get(f"{PATH}/{kept['id']}", headers=mine).json() == kept
        assert web.get(f"{PATH}/{kept['id']}", headers=other).status_code == 404
        assert web.get(f"{PATH}/{kept['id']}").status_code == 401
        assert web.delete(f"{PATH}/{kept['id']}", headers=other).status_code == 404
        assert web.delete(f"{PATH}/{kept['id']}", headers=mine).json()["deleted"] is True
