"""Collects the scores of one choice's prompt as its parts arrive. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from contract.prompt_part import PromptPart


class ScoredToken(NamedTuple):
    """A token of the prompt. The first one has no score: nothing comes before it."""

    token: int
    logprob: float | None
    rank: int | None
    top: Sequence[tuple[int, float]]  # best first


class PromptScores:
    """The ids come in the first part, the scores in any number of them."""

    def __init__(self) -> None:
        self._ids: Sequence[int] = ()
        self._known = 1

    def add(self, part: PromptPart) -> list[ScoredToken]:
        """The tokens that ``part`` completes, in order."""
        found: list[ScoredToken] = []
        if part.ids:
            self._ids = part.ids
            found.append(ScoredToken(part.ids[0], None, None, ()))
        ids = self._ids[self._known : self._known + len(part.log_probs)]
        self._known += len(ids)
        tops = orjson.loads(part.tops) if part.tops else [()] * len(ids)
        return found + [ScoredToken(*row) for row in zip(ids, part.log_probs, part.ranks, tops, strict=True)]


def entry(alternatives: int, text: Callable[[int], bytes], scored: ScoredToken) -> dict[str, Any] | None:
    """vLLM's ``prompt_logprobs`` of one token: itself and the best ``alternatives``, by id."""
    if scored.logprob is None:
        return None
    ranked = [(scored.token, scored.logprob, scored.rank)]
    others = enumerate(scored.top[:alternatives], 1)
    ranked += [(token, value, rank) for rank, (token, value) in others if token != scored.token]
    return {
        str(token): {"logprob": value, "rank": rank, "decoded_token": text(token).decode(errors="replace")}
        for token, value, rank in ranked
    }
