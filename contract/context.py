"""Checks that prompt and answer fit the engine's context.

The tokenizer step checks first, against the limits in engine.json; the engine step checks again, because a loaded
runtime may allow less (when its KV cache holds fewer tokens than the longest sequence).
"""

from __future__ import annotations

from typing import Protocol

from contract.errors import ContextTooLong


class ContextLimits(Protocol):
    """Tokens. ``max_seq_len`` is prompt + answer."""

    @property
    def max_seq_len(self) -> int: ...

    @property
    def max_input_len(self) -> int: ...


def too_long(limits: ContextLimits, field: str, count: str) -> ContextTooLong:
    """The refusal of a prompt of ``count`` tokens ("513", "at least 513") that came as ``field``."""
    return ContextTooLong(
        field,
        f"the prompt has {count} tokens, the context is {limits.max_seq_len} and a prompt may take "
        f"{longest_prompt(limits)}; shorten it or serve an engine built with a longer CONTEXT",
    )


def room(limits: ContextLimits, field: str, prompt_tokens: int, max_tokens: int) -> int:
    """Tokens left for the answer. ``max_tokens`` 0: the caller named none. Raises ``ContextTooLong``."""
    if prompt_tokens > longest_prompt(limits):
        raise too_long(limits, field, str(prompt_tokens))
    left = limits.max_seq_len - prompt_tokens
    if max_tokens > left:
        raise ContextTooLong(
            "max_tokens",
            f"{max_tokens} with a prompt of {prompt_tokens} tokens exceeds the context of {limits.max_seq_len} "
            f"tokens; use at most {left}",
        )
    return left


def longest_prompt(limits: ContextLimits, max_tokens: int = 1) -> int:
    """Tokens that a prompt may have beside so many of the answer."""
    return min(limits.max_input_len, limits.max_seq_len - max(1, max_tokens))
