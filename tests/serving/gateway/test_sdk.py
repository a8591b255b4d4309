"""The clients people already have: the official openai SDK and LangChain."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import user
from tests.serving.gateway.conftest import RunningGateway

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = 'SAY Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def test_chat_whole(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="qwen-tiny", messages=user("SAY hello 世界"))
    assert answer.choices[0].message.content == "hello 世界"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 3, 14)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_chat_streamed_with_usage(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="qwen", messages=user("SAY one two"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len({c.id for c in chunks}) == 1
    assert {c.system_fingerprint for c in chunks} == {fingerprint(sdk)}, "OpenAI's stand in every event"


async def test_async_streams_do_not_mix(gateway: RunningGateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as sdk:

        async def one(i: int) -> str:
            stream = await sdk.chat.completions.create(model="qwen", messages=user(f"SAY {i} is {i}"), stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        assert await asyncio.gather(*map(one, range(40))) == [f"{i} is {i}" for i in range(40)]


def fingerprint(sdk: openai.OpenAI) -> str | None:
    """Of a whole answer; that of a completion is the same."""
    whole = sdk.chat.completions.create(model="qwen", messages=user("x")).system_fingerprint
    assert sdk.completions.create(model="qwen", prompt="x").system_fingerprint == whole
    return whole


@pytest.mark.parametrize("limits", [(3, 5), (5, 3), (3, 3)])
def test_both_limits_hold(sdk: openai.OpenAI, limits: tuple[int, int]) -> None:
    """Clients that know both names send both; the newer one wins in vLLM, Triton and llama.cpp."""
    old, new = limits
    answer = sdk.chat.completions.create(model="qwen", messages=user("x"), max_tokens=old, max_completion_tokens=new)
    assert answer.choices[0].message.content == "w0 w1 w2"
    text = sdk.completions.create(model="qwen", prompt="x", max_tokens=old, extra_body={"max_completion_tokens": new})
    assert text.choices[0].text == "w0 w1 w2", "GuideLLM up to 0.2 sends both names to both endpoints"


def test_n_and_seed(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    answer = sdk.chat.completions.create(model="qwen", messages=user("x"), n=2, seed=7, max_completion_tokens=3)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "w0 w1 w2", "length"), (1, "w0 w1 w2", "length"),
    ]  # fmt: skip
    assert answer.usage is not None and answer.usage.completion_tokens == 6
    assert fake.requests[0]["seed"] == 7 and fake.requests[0]["num_return_sequences"] == 2


def test_logprobs(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="qwen", messages=user("x"), logprobs=True, top_logprobs=2, max_tokens=3)
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    first = answer.choices[0].logprobs.content[0]
    assert (first.token, first.logprob, first.bytes) == ("!", -0.5, [33])
    assert [t.token for t in first.top_logprobs] == ["!", '"']
    chunks = sdk.chat.completions.create(model="qwen", messages=user("x"), logprobs=True, max_tokens=3, stream=True)
    streamed = [c.choices[0].logprobs.content for c in chunks if c.choices[0].logprobs]
    assert [t.token for part in streamed for t in part or []] == ["!", '"', "#"]


def test_completions_with_logprobs_echo_and_many_prompts(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    answer = sdk.completions.create(model="qwen", prompt="x", logprobs=1, max_tokens=2)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["!", '"']
    assert answer.choices[0].logprobs.text_offset == [0, 1]
    plain = sdk.completions.create(model="qwen", prompt="x", logprobs=0, max_tokens=2).choices[0].logprobs
    assert plain is not None and plain.top_logprobs == [{"!": -0.5}, {'"': -0.5}], "the chosen token is always there"
    many = sdk.completions.create(model="qwen", prompt=["SAY a", "SAY b", "SAY c"], n=2)
    assert [c.text for c in sorted(many.choices, key=lambda c: c.index)] == list("aabbcc")
    fake.requests.clear()
    sdk.completions.create(model="qwen", prompt="x", echo=True)
    assert fake.requests[0]["exclude_input_in_output"] is False
    assert fake.requests[0]["max_tokens"] == 16, "OpenAI's default for completions"
    ids = sdk.completions.create(model="qwen", prompt=[87])
    assert ids.choices[0].finish_reason == "length" and fake.requests[1]["input_ids"] == [87]


@pytest.mark.parametrize("stream", [False, True])
def test_tools(sdk: openai.OpenAI, fake: FakeTriton, stream: bool) -> None:
    if stream:
        text, arguments, name, finish = "", "", "", ""
        for chunk in sdk.chat.completions.create(model="qwen", messages=user(CALL), tools=TOOLS, stream=True):
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                name += call.function.name or ""
                arguments += call.function.arguments or ""
            finish = choice.finish_reason or finish
    else:
        message = (
            (answer := sdk.chat.completions.create(model="qwen", messages=user(CALL), tools=TOOLS)).choices[0].message
        )
        assert message.tool_calls is not None
        function: Any = message.tool_calls[0]
        text, name, arguments = message.content or "", function.function.name, function.function.arguments
        finish = answer.choices[0].finish_reason
    assert (text, name, json.loads(arguments), finish) == ("Let me look.", "weather", {"city": "Köln"}, "tool_calls")
    assert json.loads(fake.requests[0]["tools"])[0]["function"]["name"] == "weather"


def test_forced_tool_choices_are_enforced_by_grammar(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    said = 'SAY [{"name": "weather", "arguments": {"city": "Rom"}}]'
    answer = sdk.chat.completions.create(model="qwen", messages=user(said), tools=TOOLS, tool_choice="required")
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.arguments == '{"city": "Rom"}' and answer.choices[0].finish_reason == "tool_calls"
    with sdk.chat.completions.stream(model="qwen", messages=user(said), tools=TOOLS, tool_choice="required") as told:
        made = told.get_final_completion().choices[0].message
    assert (made.content, answer.choices[0].message.content) == (None, None), (
        "a stream put together is the same message"
    )
    fake.requests.pop()
    schema = json.loads(fake.requests[0]["guided_decoding_guide"])
    assert schema["type"] == "array" and schema["items"]["properties"]["name"] == {"const": "weather"}
    named: Any = {"type": "function", "function": {"name": "weather"}}
    answer = sdk.chat.completions.create(
        model="qwen", messages=user('SAY {"city": "Rom"}'), tools=TOOLS, tool_choice=named
    )
    calls = answer.choices[0].message.tool_calls
    assert (calls[0].function.name, calls[0].function.arguments) == ("weather", '{"city": "Rom"}')
    streamed = sdk.chat.completions.create(
        model="qwen", messages=user('SAY {"city": "Rom"}'), tools=TOOLS, tool_choice=named, stream=True
    )
    ends = [answer.choices[0].finish_reason, *(chunk.choices[0].finish_reason for chunk in streamed)]
    assert {end for end in ends if end} == {"stop"}, "OpenAI's, which vLLM follows"
    assert json.loads(fake.requests[1]["guided_decoding_guide"])["required"] == ["city"]
    none = sdk.chat.completions.create(model="qwen", messages=user(CALL), tools=TOOLS, tool_choice="none")
    assert "<tool_call>" in (none.choices[0].message.content or "") and "tools" not in fake.requests[-1]


def test_a_tool_conversation_goes_back_in(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    first = sdk.chat.completions.create(model="qwen", messages=user(CALL), tools=TOOLS).choices[0].message
    assert first.tool_calls is not None
    reply = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "12 °C"}
    history: list[Any] = [*user(CALL), first, reply, {"role": "user", "content": [{"type": "text", "text": "SAY ok"}]}]
    answer = sdk.chat.completions.create(model="qwen", messages=history, tools=TOOLS)
    assert answer.choices[0].message.content == "ok"
    sent = json.loads(fake.requests[1]["messages"])
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "user"]
    assert sent[1]["tool_calls"][0]["function"]["name"] == "weather"


class Weather(BaseModel):
    city: str
    degrees: int


def test_parse_a_json_schema(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    said = 'SAY {"city": "Rom", "degrees": 12}'
    answer = sdk.chat.completions.parse(model="qwen", messages=user(said), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Rom", degrees=12)
    assert fake.requests[0]["guided_decoding_guide_type"] == "json_schema"
    assert set(json.loads(fake.requests[0]["guided_decoding_guide"])["required"]) == {"city", "degrees"}


def test_extra_fields_reach_the_engine(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    extra = {
        "top_k": 5, "min_p": 0.25, "repetition_penalty": 1.5, "ignore_eos": True, "stop_token_ids": [7],
        "min_tokens": 1, "allowed_token_ids": [7, 8], "truncate_prompt_tokens": 100, "truncation_side": "right",
        "include_stop_str_in_output": True, "guided_choice": ["a+b", "c"], "bad_words": ["x"],
    }  # fmt: skip
    sdk.chat.completions.create(
        model="qwen", messages=user("x"), stop="END", max_tokens=4, seed=-1, logit_bias={"7": -100, "9": 2},
        extra_body=extra,
    )  # fmt: skip
    sent = fake.requests[0]
    assert sent["seed"] == 2**64 - 1, "OpenAI's seeds are signed"
    assert (sent["logit_bias_ids"], sent["logit_bias_values"]) == ([7, 9], [-100.0, 2.0])
    assert sent["guided_decoding_guide"] == r"(a\+b|c)" and sent["guided_decoding_guide_type"] == "regex"
    assert sent["stop_words"] == ["END"] and sent["stop_token_ids"] == [7] and sent["bad_words"] == ["x"]
    assert (sent["allowed_token_ids"], sent["truncate_prompt_tokens"]) == ([7, 8], 100)
    assert sent["truncation_side"] == "right"
    assert (sent["top_k"], sent["min_p"], sent["ignore_eos"], sent["min_tokens"]) == (5, 0.25, True, 1)


def test_a_low_priority_runs_sooner_as_in_vllm(sdk: openai.OpenAI, fake: FakeTriton) -> None:
    for priority in (-3, 0, 1000):
        sdk.chat.completions.create(model="qwen", messages=user("x"), extra_body={"priority": priority})
    assert [sent.get("priority") for sent in fake.requests] == [3, 0, -1000]
    with pytest.raises(openai.BadRequestError, match="priority: 1001 is out of range; give an integer between -1000"):
        sdk.chat.completions.create(model="qwen", messages=user("x"), extra_body={"priority": 1001})


def test_errors_are_the_sdks_own(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(
            model="qwen", messages=user("ERR invalid_request stop_words: 65 are too many"), stop="a"
        )
    assert bad.value.param == "stop" and "stop: 65 are too many" in str(bad.value)
    with pytest.raises(openai.NotFoundError, match="use qwen-tiny"):
        sdk.chat.completions.create(model="gpt-4", messages=user("x"))
    with pytest.raises(openai.RateLimitError) as busy:
        sdk.chat.completions.create(model="qwen", messages=user("ERR queue_full queue: full"))
    assert int(busy.value.response.headers["retry-after"]) >= 1
    with pytest.raises(openai.InternalServerError, match="worker died") as dead:
        sdk.chat.completions.create(model="qwen", messages=user("ERR engine_unavailable engine: the worker died"))
    assert dead.value.status_code == 503
    with pytest.raises(openai.APIError, match="boom"):
        list(sdk.chat.completions.create(model="qwen", messages=user("MID internal_error boom"), stream=True))
    with pytest.raises(openai.NotFoundError, match="text only"):
        sdk.embeddings.create(model="qwen", input="x")
    long = "ERR context_length_exceeded messages: the prompt has 2000 tokens, this engine takes 1000; shorten it"
    with pytest.raises(openai.BadRequestError) as too_long:
        sdk.chat.completions.create(model="qwen", messages=user(long))
    assert too_long.value.code == "context_length_exceeded"


def test_models(sdk: openai.OpenAI) -> None:
    assert [m.id for m in sdk.models.list()] == ["qwen-tiny", "Qwen/Tiny", "qwen"]
    assert sdk.models.retrieve("Qwen/Tiny").id == "Qwen/Tiny"


async def test_langchain_streams_a_chat(gateway: RunningGateway) -> None:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model="qwen", base_url=f"{gateway.url}/v1", api_key="none")
    assert "".join([str(part.content) async for part in chat.astream("SAY from a chain")]) == "from a chain"
