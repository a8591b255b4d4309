"""Turns one TensorRT-LLM request's results into our deltas: cursor, end tokens, log probabilities. Pure.

TensorRT-LLM yields the same mutable object at every step, and the engine drops the end token where the PyTorch backend
keeps it. So each sequence keeps its own cursor over ``token_ids`` and never uses ``token_ids_diff``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contract.finish import FinishReason
from serving.runtimes.base import EndToken, EngineRequest, SequenceDelta
from serving.runtimes.resume import prompt_cached

REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "cancelled": "cancelled",
    "timeout": "cancelled",
}


class OutputReader:
    """``take`` turns the result object, as it is now, into the delta since the last call."""

    def __init__(self, request: EngineRequest) -> None:
        self.sequence_id, self._request = request.sequence_id, request
        self._ends = frozenset(request.sampling.stop_token_ids)
        self._logprobs = request.sampling.logprobs
        self._cursor = 0
        self._first = True

    @property
    def started(self) -> bool:
        return not self._first

    def take(self, result: Any) -> SequenceDelta | None:
        """None when nothing is new. ``result`` is TensorRT-LLM's ``RequestOutput``."""
        output = result.outputs[0]
        token_ids = list(output.token_ids)
        new = token_ids[self._cursor :]
        start, self._cursor = self._cursor, len(token_ids)  # follows trimming downwards too
        reason = _reason(output.finish_reason) if result.finished else None
        if not new and reason is None:
            return None
        counted, end = len(new), None
        if reason == "stop":
            if new and new[-1] in self._ends:
                token = new.pop()  # the PyTorch backend keeps it, and it is counted already
            else:
                token = output.stop_reason  # trimmed as a stop id, or None: the end id, which the engine dropped
                counted += 1
            end = self._end(output, start + len(new), token)
        logprobs, top = self._probabilities(output, start, new)
        cached = prompt_cached(self._request, int(result.cached_tokens or 0)) if self._first else 0
        self._first = False
        return SequenceDelta(self.sequence_id, new, counted, reason, logprobs, top, cached, end=end)

    def _end(self, output: Any, at: int, token: int | None) -> EndToken | None:
        if token is None:
            token = next(iter(self._request.sampling.stop_token_ids), None)  # as ``params.arguments`` names it
        entry = output.logprobs[at] if self._logprobs and len(output.logprobs or ()) > at else None
        if token is None or entry is None or (isinstance(entry, dict) and token not in entry):
            return None if token is None else EndToken(token)
        return EndToken(token, _value(entry, token), _best(entry, self._logprobs - 1))

    def _probabilities(
        self, output: Any, start: int, new: Sequence[int]
    ) -> tuple[list[float], list[tuple[tuple[int, float], ...]]]:
        if not self._logprobs or not new:
            return [], []
        entries = list(output.logprobs)[start : start + len(new)]
        chosen = [_value(entry, token) for entry, token in zip(entries, new, strict=True)]
        if self._logprobs == 1:
            return chosen, []
        return chosen, [_best(entry, self._logprobs - 1) for entry in entries]


def _reason(reason: str | None) -> FinishReason:
    return REASONS.get(reason or "", "error")


def _value(entry: Any, token: int) -> float:
    """An entry is ``{token_id: Logprob}``, or a plain float in the simple format."""
    return float(entry) if isinstance(entry, float) else float(entry[token].logprob)


def _best(entry: Any, count: int) -> tuple[tuple[int, float], ...]:
    if isinstance(entry, float):
        return ()
    pairs = sorted(((token, float(item.logprob)) for token, item in entry.items()), key=lambda pair: -pair[1])
    return tuple(pairs[:count])
