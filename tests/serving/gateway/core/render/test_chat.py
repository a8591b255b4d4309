"""Where a stream's finish reason stands: what other servers' clients count on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.types import Options
from serving.gateway.core.choices import ChoiceUpdate
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.core.render.base import AnswerHeader, Usage
from serving.gateway.core.render.chat import ChatStream
from serving.gateway.schema.protocol import StreamOptions

PIECES: list[tuple[str, str | None]] = [("a", None), ("b", None), ("c", "length")]


def choices(*, chat: bool, continuous: bool = False, **options: Any) -> list[dict[str, Any]]:
    """The choices of the events in which a stream tells ``PIECES``."""
    counted = StreamOptions(include_usage=continuous, continuous_usage_stats=continuous)
    plan = GenerationPlan(
        chat=chat, prompts=("x",), options=Options(**options), stream=True, stream_options=counted, token_ids=False,
        prompt_logprobs=None,
    )  # fmt: skip
    stream = ChatStream(plan, AnswerHeader("id", "qwen", 0, "fp_0"))
    said = b""
    for at, (text, finish) in enumerate(PIECES, 1):
        update = ChoiceUpdate(text, None, [at], {"tokens": [text]} if options.get("logprobs") else None, finish)
        plain = getattr(stream, "plain", None)
        said += plain(0, text, finish) if plain else stream.update(0, update, Usage(5, at, 0))
    events = [json.loads(event.removeprefix("data: ")) for event in said.decode().strip().split("\n\n")]
    assert {event["system_fingerprint"] for event in events} == {"fp_0"}, "OpenAI's SDKs keep the last one"
    if continuous:
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == ([0, 1, 2, 3] if chat else [1, 2, 3]), "each event counts on: vLLM's own test"
    return [event["choices"][0] for event in events]


@pytest.mark.parametrize("more", [{}, {"logprobs": True}, {"stop": ("x",)}, {"continuous": True}], ids=str)
def test_a_completions_last_text_brings_the_finish_reason(more: dict[str, Any]) -> None:
    """vLLM, SGLang and TGI send one event per token, and vLLM's tests count them."""
    told = choices(chat=False, **more)
    assert [(choice["text"], choice["finish_reason"]) for choice in told] == PIECES
    assert "stop_reason" in told[-1] and all(choice["logprobs"] for choice in told) == ("logprobs" in more)


@pytest.mark.parametrize("more", [{}, {"logprobs": True}, {"stop": ("x",)}], ids=str)
def test_a_chat_ends_with_an_event_of_its_own(more: dict[str, Any]) -> None:
    """As OpenAI's, whose clients expect no content beside a finish reason."""
    told = choices(chat=True, **more)
    assert [choice["delta"].get("content") for choice in told] == ["", "a", "b", "c", None]
    assert [choice["finish_reason"] for choice in told] == [None, None, None, None, "length"]
    assert told[-1]["delta"] == {} and told[-1]["logprobs"] is None


def test_with_usage_in_every_event_a_chat_ends_as_vllms() -> None:
    told = choices(chat=True, continuous=True)
    assert [(c["delta"]["content"], c["finish_reason"]) for c in told] == [("", None), *PIECES]
