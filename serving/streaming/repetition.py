"""Notices an answer that repeats itself, one token at a time, on any engine.

The rule is vLLM's ``check_sequence_repetition`` (v0.33.0, vllm/v1/core/sched/utils.py): a pattern of
``min_pattern_size`` to ``max_pattern_size`` tokens has just occurred ``min_count`` times in a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.runtimes.base import SequenceDelta


class RepetitionDetector:
    """The last tokens of one sequence. ``found``: it has repeated itself, and nothing more belongs to the answer.

    A pattern of p tokens has occurred c times when each of the last p * (c - 1) tokens equals the one p before it. So
    one counter per p is enough, and a token costs the same few microseconds whatever the text is.
    """

    def __init__(self, max_pattern_size: int, min_pattern_size: int, min_count: int, *, min_tokens: int = 0) -> None:
        self.found = False
        self._most, self._left = max_pattern_size, min_tokens
        sizes = np.arange(max_pattern_size, 0, -1)  # as ``past`` in ``_repeats``: the furthest first
        self._needed = np.where(sizes < min_pattern_size, np.iinfo(np.int64).max, sizes * (min_count - 1))
        self._runs = np.zeros(max_pattern_size, np.int64)
        self._tokens = np.full(4 * max_pattern_size, -1)
        self._at = max_pattern_size

    def replay(self, ids: Sequence[int]) -> None:
        """Tokens that an earlier attempt made."""
        self.found = any(map(self._repeats, ids))

    def cut(self, delta: SequenceDelta) -> SequenceDelta:
        """``delta`` without what follows the repetition. Its finish reason, if it has one, becomes ``repetition``."""
        if self.found:
            ended = delta.finish_reason is not None and delta.finish_reason != "error"
            return SequenceDelta(
                delta.sequence_id, (), 0, "repetition" if ended else delta.finish_reason, error=delta.error
            )
        for used, token in enumerate(delta.token_ids, 1):
            if self._repeats(token):
                self.found = True
                return self._until(delta, used)
        return delta

    def _until(self, delta: SequenceDelta, used: int) -> SequenceDelta:
        if used == delta.counted and delta.finish_reason:
            return delta  # it has ended here by itself
        return delta._replace(
            token_ids=delta.token_ids[:used], counted=used, logprobs=delta.logprobs[:used],
            top_logprobs=delta.top_logprobs[:used], finish_reason="repetition" if delta.finish_reason else None,
            end=None,
        )  # fmt: skip

    def _repeats(self, token: int) -> bool:
        if self._at == len(self._tokens):
            self._tokens[: self._most] = self._tokens[-self._most :]
            self._at = self._most
        past = self._tokens[self._at - self._most : self._at]
        self._runs += 1
        self._runs *= past == token
        self._tokens[self._at] = token
        self._at += 1
        self._left -= 1
        return self._left <= 0 and bool((self._runs >= self._needed).any())
