"""/v1/messages through the official anthropic SDK, and what its types do not show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from contract import context
from contract.engine_dir import EngineLimits
from contract.errors import ContextTooLong
from serving.gateway.core.choices import ChoiceState, ChoiceUpdate
from serving.gateway.core.guides import LENIENT
from serving.gateway.core.render.messages import Blocks
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.messages_protocol import MessagesRequest, as_chat
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import user
from tests.serving.gateway.conftest import RunningGateway

TOOL: Any = {"name": "weather", "description": "Weather of a city", "input_schema": {"type": "object"}}
CALL = 'SAY Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture
def sdk(gateway: RunningGateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_message(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    answer = sdk.messages.create(
        model="qwen", max_tokens=50, system=system, messages=user("SAY hello 世界"), extra_body={"top_k": 5}
    )
    (block,) = answer.content
    assert (block.type, getattr(block, "text", "")) == ("text", "hello 世界")
    assert (answer.role, answer.stop_reason, answer.stop_sequence) == ("assistant", "end_turn", None)
    used = answer.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.output_tokens) == (8, 3, 3)
    assert [m["role"] for m in json.loads(fake.requests[0]["messages"])] == ["system", "user"]
    assert (fake.requests[0]["max_tokens"], fake.requests[0]["top_k"]) == (50, 5)
    cut = sdk.messages.create(model="qwen", max_tokens=2, messages=user("x"))
    assert cut.stop_reason == "max_tokens"


def test_a_streamed_message(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(model="qwen", max_tokens=50, messages=user("SAY one two")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "one two"
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 8, 3)


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_and_its_result(sdk: anthropic.Anthropic, fake: FakeTriton, stream: bool) -> None:
    asked: Any = {"model": "qwen", "max_tokens": 50, "messages": user(CALL), "tools": [TOOL]}
    if stream:
        with sdk.messages.stream(**asked) as events:
            answer: Any = events.get_final_message()
    else:
        answer = sdk.messages.create(**asked)
    text, call = answer.content
    assert (text.text, call.name, call.input, answer.stop_reason) == (
        "Let me look.", "weather", {"city": "Köln"}, "tool_use",
    )  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "12 °C"}]}
    history: list[Any] = [
        *user("x"), {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result, {"type": "text", "text": "SAY ok"}]},
    ]  # fmt: skip
    last: Any = sdk.messages.create(model="qwen", max_tokens=50, messages=history, tools=[TOOL])
    assert last.content[0].text == "ok"
    sent = json.loads(fake.requests[-1]["messages"])
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "user"]
    assert sent[2]["content"] == "12 °C" and sent[1]["tool_calls"][0]["id"] == call.id


def test_a_forced_tool_is_enforced_by_grammar(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    choice: Any = {"type": "tool", "name": "weather"}
    said = user('SAY {"city": "Rom"}')
    answer: Any = sdk.messages.create(model="qwen", max_tokens=50, messages=said, tools=[TOOL], tool_choice=choice)
    assert answer.content[0].input == {"city": "Rom"} and answer.stop_reason == "tool_use"
    assert json.loads(fake.requests[0]["guided_decoding_guide"]) == LENIENT | {"type": "object"}


def test_the_beginning_of_the_answer_goes_on(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    history: list[Any] = [*user("SAY x"), {"role": "assistant", "content": "{"}]
    sdk.messages.create(model="qwen", max_tokens=5, messages=history)
    assert fake.requests[0]["continue_final_message"] is True


def test_a_stop_sequence_is_asked_for_and_named(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    answer = sdk.messages.create(model="qwen", max_tokens=9, messages=user("SAY a END"), stop_sequences=["ND", "END"])
    assert fake.requests[0]["stop_words"] == ["ND", "END"] and fake.requests[0]["include_stop_str_in_output"] is True
    assert (answer.stop_reason, answer.stop_sequence, getattr(answer.content[0], "text", "")) == (
        "stop_sequence", "END", "a ",
    )  # fmt: skip


def test_chat_and_completions_name_the_stop_string(web: httpx.Client) -> None:
    body = {"messages": user("SAY a END"), "stop": "END"}
    choice = web.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert (choice["message"]["content"], choice["stop_reason"], choice["finish_reason"]) == ("a ", "END", "stop")
    kept = web.post("/v1/chat/completions", json=body | {"include_stop_str_in_output": True}).json()["choices"][0]
    assert (kept["message"]["content"], kept["stop_reason"]) == ("a END", "END")
    plain = web.post("/v1/completions", json={"prompt": "SAY a"}).json()["choices"][0]
    assert plain["stop_reason"] is None
    text = web.post("/v1/chat/completions", json=body | {"stream": True, "stop": "D"}).text
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == "a EN"
    assert events[-1]["choices"][0]["stop_reason"] == "D"


def test_an_answer_has_a_token(web: httpx.Client) -> None:
    refused = web.post("/v1/messages", json={"max_tokens": 0, "messages": user("x")})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "max_tokens: 0 is wrong: should be greater than or equal to 1"


def test_errors_have_anthropics_shape(sdk: anthropic.Anthropic, web: httpx.Client) -> None:
    with pytest.raises(anthropic.NotFoundError, match="use qwen-tiny"):
        sdk.messages.create(model="claude", max_tokens=5, messages=user("x"))
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: missing"):
        sdk.post("/v1/messages", body={"messages": user("x")}, cast_to=object)
    with pytest.raises(anthropic.RateLimitError):
        sdk.messages.create(model="qwen", max_tokens=5, messages=user("ERR queue_full queue: full"))
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    error = web.post("/v1/messages", json={"max_tokens": 5, "messages": image}).json()
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
    assert "messages[0].content[0].type" in error["error"]["message"]
    search = {"type": "web_search_20250305", "name": "web_search"}
    error = web.post("/v1/messages", json={"max_tokens": 5, "messages": user("x"), "tools": [search]}).json()
    assert "tools[0].type" in error["error"]["message"] and "runs no tools" in error["error"]["message"]
    with (
        pytest.raises(anthropic.APIStatusError, match="boom"),
        sdk.messages.stream(model="qwen", max_tokens=50, messages=user("MID internal_error boom")) as stream,
    ):
        stream.until_done()


def test_the_sdks_tool_runner_goes_on_without_threads(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    """It asks for conversations that the server holds, and sends all messages where it is told that there are none."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    runner = sdk.beta.messages.tool_runner(
        model="qwen", max_tokens=60, tools=[weather], messages=user(CALL), max_iterations=2
    )
    turns = [message.stop_reason for message in runner]
    assert turns[0] == "tool_use" and len(turns) == 2
    assert "sunny in Köln" in fake.requests[-1]["messages"] and len(fake.requests) == 2


def test_a_document_of_text_is_read(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    plain: Any = {
        "type": "document",
        "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "abc"},
    }
    blocks: Any = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "def"}]}}
    content: Any = [plain, blocks, {"type": "text", "text": "SAY x"}]
    sdk.messages.create(model="qwen", max_tokens=5, messages=[{"role": "user", "content": content}])
    assert json.loads(fake.requests[0]["messages"])[0]["content"] == "T\n\nabc\n\ndef\n\nSAY x"


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "image", "source": {"type": "url", "url": "x"}}, "content[0].type: image is not supported; this"),
        ({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}, "content[0].type: image is not"),
        ({"type": "document", "source": {"type": "base64", "data": ""}}, "content[0].source.type: 'base64' is wrong"),
        ({"type": "document", "source": {"type": "text", "data": "a"}, "citations": {"enabled": True}},
         "content[0].citations.enabled: true is not supported (answers cite nothing)"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_name(web: httpx.Client, block: Any, said: str) -> None:
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}
    answer = web.post("/v1/messages", json=body)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_strict_tool_stays_strict(sdk: anthropic.Anthropic, fake: FakeTriton) -> None:
    for strict, lenient in ((True, False), (False, True)):
        tool = TOOL | {"strict": strict}
        sdk.messages.create(model="qwen", max_tokens=9, messages=user("x"), tools=[tool], tool_choice={"type": "any"})
        assert ("x-guidance" in fake.requests[-1]["guided_decoding_guide"]) is lenient


def test_models_have_anthropics_shape_too(sdk: anthropic.Anthropic) -> None:
    page = sdk.models.list()
    assert [model.type for model in page] == ["model"] * len(page.data) and not page.has_more
    one = sdk.models.retrieve("qwen")
    assert (one.id, one.display_name) == ("qwen", "qwen") and one.created_at.year > 2000


CLAUDE_CODE: dict[str, Any] = {  # a turn of Claude Code 2.1.332, shortened
    "model": "qwen", "max_tokens": 32000, "stream": False, "metadata": {"user_id": "{}"},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.332.bf1; cc_entrypoint=sdk-cli;"},
        {"type": "text", "text": "You run commands.", "cache_control": {"type": "ephemeral"}},
    ],
    "tools": [{"name": "Bash", "description": "d", "input_schema": {"type": "object"}}], "messages": user("SAY x"),
    "thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}  # fmt: skip


def test_claude_code_is_answered(web: httpx.Client, fake: FakeTriton) -> None:
    answer = web.post("/v1/messages?beta=true", json=CLAUDE_CODE).json()
    assert answer["content"] == [{"type": "text", "text": "x"}]
    assert json.loads(fake.requests[0]["messages"])[0] == {"role": "system", "content": "You run commands."}


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0].type"),
    ],
)
def test_what_claude_code_could_ask_beyond_is_refused_by_name(
    web: httpx.Client, field: dict[str, Any], named: str
) -> None:
    message = web.post("/v1/messages", json=CLAUDE_CODE | field).json()["error"]["message"]
    assert message.startswith(named)


def test_a_context_that_is_too_short_is_said_in_anthropics_words(web: httpx.Client) -> None:
    """Claude Code takes the numbers out of them and asks again for less, or compacts."""
    limits = EngineLimits(max_seq_len=100, max_input_len=90)
    for prompt, words in (
        (20, "input length and `max_tokens` exceed context limit: 20 + 200 > 100, decrease input length or "),
        (95, "prompt is too long: 95 tokens > 90 maximum"),
    ):
        with pytest.raises(ContextTooLong) as caught:
            context.room(limits, "messages", prompt, 200)
        said = f"ERR {ContextTooLong.code} {caught.value}"
        error = web.post("/v1/messages", json={"max_tokens": 200, "messages": user(said)}).json()["error"]
        assert error["type"] == "invalid_request_error" and error["message"].startswith(words)


def test_a_schema_may_come_under_its_older_name() -> None:
    """Inspect's."""
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    older, newer = {"output_format": wanted}, {"output_config": {"format": wanted}}
    read = [
        as_chat(MessagesRequest.model_validate({"max_tokens": 1, "messages": user("x")} | w)) for w in (older, newer)
    ]
    assert read[0].response_format == read[1].response_format is not None
    with pytest.raises(ApiError, match=r"^output_format: given together with "):
        as_chat(MessagesRequest.model_validate({"max_tokens": 1, "messages": user("x")} | older | newer))


def test_count_tokens_names_errors_too(web: httpx.Client) -> None:
    error = web.post("/v1/messages/count_tokens", json={"messages": []}).json()
    assert error["type"] == "error" and "messages" in error["error"]["message"]


def test_cut_arguments_are_no_input() -> None:
    from serving.gateway.core.tools import CallArguments, CallStart

    blocks = Blocks(one_call=False)
    blocks.add(ChoiceUpdate("", [CallStart(0, "f"), CallArguments(0, '{"a')], [], None, "length"))
    assert blocks.blocks[0]["input"] == {} and blocks.stop_reason == "max_tokens"


def test_of_stop_strings_with_the_same_end_the_longest_is_named() -> None:
    from contract.packed import SequenceOutput

    state = ChoiceState(0, stops=("b", "ab"))
    update = state.update(SequenceOutput("xab", None, 1, 1, 0, 0, 0))
    assert (update.text, update.stop) == ("x", "ab")
