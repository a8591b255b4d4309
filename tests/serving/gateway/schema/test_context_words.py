"""A context that is too short is said in words that OpenAI's and Anthropic's clients know."""

from __future__ import annotations

import pytest

from contract.context import room, too_long
from contract.engine_dir import EngineLimits
from contract.errors import ContextTooLong
from serving.gateway.schema.context_words import anthropics, openais
from serving.gateway.schema.errors import ApiError

LIMITS = EngineLimits(max_seq_len=100, max_input_len=90)


def refused(prompt: int, answer: int) -> str:
    with pytest.raises(ContextTooLong) as caught:
        room(LIMITS, "messages", prompt, answer)
    return str(caught.value)


def test_a_prompt_that_is_too_long() -> None:
    """LiteLLM, and through it aider, DSPy and OpenHands, looks for the first sentence in lower case."""
    assert openais(refused(95, 1)) == (
        "messages: This model's maximum context length is 100 tokens. However, your messages resulted in 95 tokens, "
        "and a prompt may take 90. Please reduce the length of the messages or serve an engine built with a longer "
        "CONTEXT"
    )
    assert "resulted in at least 99 tokens" in openais(str(too_long(LIMITS, "prompt", "at least 99")))
    assert anthropics(refused(95, 1)) == "prompt is too long: 95 tokens > 90 maximum"


def test_an_answer_that_is_too_long() -> None:
    assert openais(refused(70, 31)) == (
        "max_tokens: This model's maximum context length is 100 tokens. However, you requested 101 tokens (70 in the "
        "messages, 31 in the completion). Please reduce the length of the messages or completion; use at most 30"
    )
    assert anthropics(refused(70, 31)).startswith("input length and `max_tokens` exceed context limit: 70 + 31 > 100,")


def test_other_sentences_stay() -> None:
    assert openais("top_p: 2 is out of range") == anthropics("top_p: 2 is out of range") == "top_p: 2 is out of range"
    assert "maximum context length" not in ApiError(400, refused(95, 1)).fields()["message"]
    assert "maximum context length" in ApiError(400, refused(95, 1), code=ContextTooLong.code).fields()["message"]
