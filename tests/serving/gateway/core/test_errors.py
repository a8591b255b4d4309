"""A refusal of the engine's reads as the caller wrote the request."""

from __future__ import annotations

import time

import pytest

from contract.errors import ConnectError, EngineUnavailable, InvalidRequest, Overloaded, ServingError
from serving.gateway.core import translate
from serving.gateway.core.errors import from_library
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.parse import parse
from serving.gateway.schema.protocol import ChatRequest
from serving.outage import Outage

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "now"}}


def test_every_tensor_in_a_message_has_the_callers_name() -> None:
    renamed = translate.chat(parse(ChatRequest, {"messages": HI})).renamed
    problem = "0 answers nothing; give at least 1, or ask for return_prompt_log_probs or return_prompt_ids"
    seen = from_library(InvalidRequest("max_tokens", problem), renamed, 1, Outage()).message
    assert seen.endswith("or ask for prompt_logprobs or return_token_ids")
    problem = "true needs a guide; send guided_decoding_guide, or leave this out"
    seen = from_library(InvalidRequest("guided_decoding_complete", problem), renamed, 1, Outage()).message
    assert seen == "guided_complete: true needs a guide; send response_format, or leave this out"


def test_a_restart_and_a_queue_have_their_own_times() -> None:
    restart = Outage("restarting: it died", time.monotonic() + 11.5)
    for error in (ConnectError("refused"), EngineUnavailable("engine: it died")):
        assert from_library(error, {}, 1, restart).retry_after == 12
        assert from_library(error, {}, 1, Outage()).retry_after == 5
    assert "restarting: it died" in from_library(ConnectError("refused"), {}, 1, restart).message
    assert from_library(Overloaded("queue: full"), {}, 1, restart).retry_after == 1
    assert from_library(ServingError("?"), {}, 1, restart).retry_after is None


def test_whole_calls_of_no_tools_change_nothing() -> None:
    body = {"messages": HI, "tools": [TOOL], "guided_complete": True}
    assert translate.chat(parse(ChatRequest, body)).options.guide_complete
    assert not translate.chat(parse(ChatRequest, body | {"tool_choice": "none"})).options.guide_complete
    guided = body | {"tool_choice": "none", "response_format": {"type": "json_object"}}
    assert translate.chat(parse(ChatRequest, guided)).options.guide_complete


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "the body is null"),
        ({"messages": []}, "messages: [] is wrong: list should have at least 1 item"),
        ({"messages": HI, "top_p": True}, "true is wrong"),
    ],
)
def test_wrong_values_are_named_as_json_and_without_pythons_words(body: object, words: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(ChatRequest, body)
    assert words in refused.value.message and "validation" not in refused.value.message
