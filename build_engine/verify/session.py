"""Ask an engine, through the runtime that serves it, for answers and for its most likely next tokens.

Probabilities at a position come from a request for one token whose prompt is everything before it. The runtime's prefix
cache makes that cheap, and the measurement uses the kernels, KV type and batching that will serve.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import psutil

from build_engine.verify.metrics import Position
from contract.engine_dir import EngineInfo
from contract.errors import BuildError
from contract.sampling import Sampling
from serving import runtimes
from serving.runtimes.base import EngineRequest, Runtime, RuntimeOptions, SequenceDelta

TOP = 20  # most likely tokens compared; vLLM gives no more
GROUP = 16  # samples whose prompts share the prefix cache at a time
KV_BYTES = 4 << 30  # four prompts of 8,192 tokens in FP32, in the 7B shape; pages are taken when used
SILENT_SECONDS = 600.0  # a long prompt on a slow CPU takes minutes


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the reference's continuation of it."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


class Scorer(Protocol):
    """A model that answers and gives probabilities. ``name`` and ``path`` say which one, for the record."""

    name: str
    path: Path  # the engine or checkpoint directory

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int, *, greedy: bool) -> list[list[int]]: ...

    def score(self, samples: Sequence[Sample]) -> list[list[Position]]: ...

    def close(self) -> None: ...


class EngineScorer:
    """A context manager over a loaded engine. Raises ``BuildError`` when the runtime fails or dies."""

    def __init__(self, engine: EngineInfo) -> None:
        self.name = f"{engine.runtime.name} {engine.precision} engine {engine.path}"
        self.path = engine.path
        self._changed = threading.Condition()
        self._deltas: dict[int, list[SequenceDelta]] = {}
        self._open: set[int] = set()
        self._dead = ""
        self._next = 0
        self._runtime = _load(engine, self)
        self.has_probabilities = "top_logprobs" in self._runtime.capabilities

    def __enter__(self) -> EngineScorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._runtime.close()

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int, *, greedy: bool) -> list[list[int]]:
        """``tokens`` tokens for each prompt, end tokens included: a fixed length makes positions comparable."""
        sampling = [_free(tokens, greedy, seed) for seed in range(len(prompts))]
        results = self._run(list(zip(prompts, sampling, strict=True)))
        return [[token for delta in deltas for token in delta.token_ids] for deltas in results]

    def score(self, samples: Sequence[Sample]) -> list[list[Position]]:
        """For each sample the most likely tokens at every position of its target."""
        found: list[list[Position]] = []
        for start in range(0, len(samples), GROUP):
            group = samples[start : start + GROUP]
            first = self._run([(sample.prompt, self._one()) for sample in group])  # fills the prefix cache
            rest = self._run(
                [
                    (sample.prompt + sample.target[:t], self._one())
                    for sample in group
                    for t in range(1, len(sample.target))
                ]
            )
            following = iter(rest)
            for sample, head in zip(group, first, strict=True):
                found.append([_position(head), *(_position(next(following)) for _ in sample.target[1:])])
        return found

    def _one(self) -> Sampling:
        return Sampling(1, temperature=0.0, ignore_eos=True, logprobs=TOP + 1 if self.has_probabilities else 0)

    def _run(self, work: Sequence[tuple[Sequence[int], Sampling]]) -> list[list[SequenceDelta]]:
        ids = []
        for prompt, sampling in work:
            with self._changed:
                self._wait(lambda: len(self._open) < self._runtime.limits.max_streams)
                self._next += 1
                self._open.add(self._next)
                self._deltas[self._next] = []
            ids.append(self._next)
            self._runtime.submit(EngineRequest(self._next, list(prompt), sampling))
        with self._changed:
            self._wait(lambda: not self._open)
            return [self._deltas.pop(sequence_id) for sequence_id in ids]

    def _wait(self, ready: Callable[[], bool]) -> None:
        while not (self._dead or ready()):
            if not self._changed.wait(SILENT_SECONDS):
                raise BuildError(f"{self.name} gave no token for {SILENT_SECONDS:.0f} s")
        if self._dead:
            raise BuildError(f"{self.name} failed: {self._dead}")

    def on_step(self, deltas: list[SequenceDelta]) -> None:
        with self._changed:
            for delta in deltas:
                self._deltas[delta.sequence_id].append(delta)
                if delta.finish_reason == "error":
                    self._dead = delta.error or "a request failed"
                if delta.finish_reason:
                    self._open.discard(delta.sequence_id)
            self._changed.notify_all()

    def on_death(self, reason: str) -> None:
        with self._changed:
            self._dead = reason
            self._changed.notify_all()


def _load(engine: EngineInfo, scorer: EngineScorer) -> Runtime:
    """A TensorRT engine returns log probabilities only when loaded for it, which serving must not do."""
    if engine.runtime.name == "tensorrt_llm":
        from serving.runtimes.tensorrt_llm import runtime as tensorrt_llm

        return tensorrt_llm.create(engine, RuntimeOptions(), scorer.on_step, scorer.on_death, scoring=True)
    options = RuntimeOptions(
        max_streams=GROUP, kv_cache_bytes=_kv_bytes() if engine.runtime.name == "openvino" else None
    )
    return runtimes.load(engine, options, scorer.on_step, scorer.on_death)


def _kv_bytes() -> int:
    """Room for all long prompts at once, so that each is computed only once."""
    return min(KV_BYTES, int(0.4 * psutil.virtual_memory().available))


def _free(tokens: int, greedy: bool, seed: int) -> Sampling:
    if greedy:
        return Sampling(tokens, temperature=0.0, ignore_eos=True)
    return Sampling(tokens, temperature=1.0, top_k=TOP, seed=seed, ignore_eos=True)


def _position(deltas: Sequence[SequenceDelta]) -> Position:
    """The top tokens of a one-token answer; without probabilities only the token, with NaN as its value."""
    for delta in deltas:
        if delta.top_logprobs:
            return delta.top_logprobs[0]
        if delta.token_ids:
            return [(delta.token_ids[0], float("nan"))]
    raise BuildError("the runtime ended a request without a token")
