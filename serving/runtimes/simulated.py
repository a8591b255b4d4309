"""A runtime without a model: a step clock and deterministic tokens, for tests and serving-layer benchmarks.

Every ``STEP_MS`` one step gives one token to each running stream; an idle engine starts a step when a request arrives,
so one lone stream sees its first token after exactly one step, plus ``prefill_ms_per_token`` for each token of its
prompt; with that, prompts are cached, and what was read before costs nothing.
Token ``i`` of a stream depends on the prompt and the seed alone. ``FAULT`` (comma-separated) breaks things on purpose:

    die@N        the engine dies at step N          stall@N:S    step N takes S seconds longer
    error@N      every Nth request ends in an error eos@N        every stream ends with `stop` after N tokens
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

from contract.engine_dir import EngineInfo
from contract.errors import EngineUnavailable
from contract.finish import FinishReason
from contract.prompt_part import PromptPart
from serving.runtimes.base import (
    EndToken,
    EngineRequest,
    OnDeath,
    OnStep,
    Runtime,
    RuntimeLimits,
    RuntimeOptions,
    RuntimeStats,
    SequenceDelta,
)
from serving.runtimes.simulated_prefix import PrefixCache

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32
KV_BLOCKS = 65536
VOCABULARY = 151643  # ordinary tokens of Qwen2.5; special ones follow
LOG_PROB = -0.5  # of every token
LATE_SECONDS = 0.1  # a step clock that is further behind starts anew instead of rushing
# The tokens come from prompt and seed, so settings that only move probabilities are honoured by having no effect.
HONOURED = frozenset(
    {
        "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "min_tokens", "bad_words",
        "logprobs", "return_prompt_log_probs", "priority", "cache_salt", "resume_ids",
    }
)  # fmt: skip


def first_token(input_ids: npt.ArrayLike, seed: int) -> int:
    """What a simulated stream begins to count from, before the remainder by ``VOCABULARY``."""
    return zlib.crc32(np.asarray(input_ids, dtype=np.int32).tobytes(), seed & 0xFFFFFFFF)


def tokens(input_ids: npt.ArrayLike, seed: int, count: int) -> list[int]:
    """The first ``count`` tokens that a simulated stream yields for this prompt and seed."""
    start = first_token(input_ids, seed)
    return [(start + 7919 * i) % VOCABULARY for i in range(count)]


def prompt_scores(request: EngineRequest) -> PromptPart:
    """Token ``i`` of the prompt is the best one, with -1 / i; the alternatives are the ids above it, each 1 less."""
    ids, alternatives = list(request.input_ids), request.sampling.prompt_logprobs - 1
    values = [-1.0 / at for at in range(1, len(ids))]
    tops = [[[token + k, value - k] for k in range(alternatives)] for token, value in zip(ids[1:], values, strict=True)]
    return PromptPart((), values, [1] * len(values), orjson.dumps(tops) if alternatives else b"")


@dataclass(frozen=True, slots=True)
class Faults:
    """Parsed ``FAULT``; zero means never."""

    die: int = 0
    error: int = 0
    eos: int = 0
    stall: int = 0
    stall_seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Faults:
        values: dict[str, int] = {}
        stall_seconds = 0.0
        for part in filter(None, text.split(",")):
            name, _, argument = part.partition("@")
            number, _, seconds = argument.partition(":")
            well_formed = number.isdecimal() and (not seconds or seconds.replace(".", "", 1).isdecimal())
            if name not in ("die", "error", "eos", "stall") or not well_formed:
                raise ValueError(f"FAULT: {part!r} is not die@N, error@N, eos@N or stall@N:SECONDS")
            values[name] = int(number)
            if name == "stall":
                stall_seconds = float(seconds or 1)
        return cls(**values, stall_seconds=stall_seconds)


class _Live:
    __slots__ = ("begun", "blocks", "cached", "due", "made", "request", "start")

    def __init__(self, request: EngineRequest, cached: int, due: float) -> None:
        self.request = request
        self.cached = cached
        self.begun = time.monotonic()
        self.made = len(request.resume_ids)
        self.due = due  # when its simulated prefill is over
        self.start = first_token(request.input_ids, request.sampling.seed)
        self.blocks = -(-(len(request.input_ids) + request.sampling.max_tokens) // BLOCK_TOKENS)


class SimulatedRuntime:
    """See the module. One thread steps; ``submit`` and ``abort`` only queue."""

    capabilities = HONOURED

    def __init__(self, engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> None:
        limits = engine.limits
        self.limits = RuntimeLimits(
            limits.max_seq_len, limits.max_input_len, engine.model.vocab_size, options.max_streams
        )
        self._ordinary = min(VOCABULARY, engine.model.vocab_size - 1)  # of a small one the last is special
        self._step = options.step_ms / 1e3
        self._prefill = options.prefill_ms_per_token / 1e3
        self._faults = Faults.parse(options.fault)
        self._on_step, self._on_death = on_step, on_death
        self._waiting: deque[EngineRequest] = deque()
        self._aborted: deque[int] = deque()
        self._running: dict[int, _Live] = {}
        self._work = threading.Event()
        self._closed = False
        self._prefixes = PrefixCache(KV_BLOCKS, BLOCK_TOKENS) if options.prefill_ms_per_token else None
        self._count = {"prompt": 0, "cached": 0, "generated": 0, "steps": 0, "blocks": 0, "requests": 0}
        self._thread = threading.Thread(target=self._run, name="simulated-engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest) -> None:
        if self._closed:
            raise EngineUnavailable("engine: it is closed")
        self._waiting.append(request)
        self._work.set()

    def abort(self, sequence_id: int) -> None:
        self._aborted.append(sequence_id)
        self._work.set()

    def stats(self) -> RuntimeStats:
        count = self._count
        return RuntimeStats(
            len(self._running), len(self._waiting), count["blocks"], KV_BLOCKS, count["prompt"],
            count["cached"], count["generated"], count["steps"], kv_block_tokens=BLOCK_TOKENS,
        )  # fmt: skip

    def close(self) -> None:
        self._closed = True
        self._work.set()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            log.exception("the step loop failed")
            self._closed = True
            self._on_death(f"the simulated engine failed ({error!r})")

    def _loop(self) -> None:
        due = time.perf_counter()
        while not self._closed:
            self._work.clear()
            self._apply_aborts()
            self._admit()
            if not self._running:
                self._work.wait(1.0)
                due = time.perf_counter()
                continue
            due += self._step + self._fault_of(self._count["steps"] + 1)
            delay = due - time.perf_counter()
            if delay > 0:
                time.sleep(delay)
            elif delay < -LATE_SECONDS:
                due = time.perf_counter()
            if self._closed or self._died():
                return
            self._one_step()

    def _fault_of(self, step: int) -> float:
        return self._faults.stall_seconds if step == self._faults.stall else 0.0

    def _died(self) -> bool:
        if self._faults.die and self._count["steps"] + 1 >= self._faults.die:
            self._closed = True
            self._on_death(f"the simulated engine died at step {self._faults.die}")
            return True
        return False

    def _apply_aborts(self) -> None:
        deltas = []
        while self._aborted:
            number = self._aborted.popleft()
            live = self._running.pop(number, None)
            if live:
                self._count["blocks"] -= live.blocks
            waiting = next((r for r in list(self._waiting) if r.sequence_id == number), None)
            if waiting:
                self._waiting.remove(waiting)
            if live or waiting:
                deltas.append(SequenceDelta(number, (), 0, "cancelled"))
        if deltas:
            self._on_step(deltas)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.limits.max_streams:
            request = self._waiting.popleft()
            cached = self._prefixes.read(request.input_ids, request.cache_salt) if self._prefixes else 0
            to_read = len(request.input_ids) + len(request.resume_ids) - cached
            live = _Live(request, cached, time.perf_counter() + self._prefill * to_read)
            self._running[request.sequence_id] = live
            self._count["blocks"] += live.blocks
            self._count["prompt"] += len(request.input_ids)
            self._count["cached"] += cached
            self._count["requests"] += 1
            if self._faults.error and self._count["requests"] % self._faults.error == 0:
                del self._running[request.sequence_id]
                self._count["blocks"] -= live.blocks
                self._on_step([SequenceDelta(request.sequence_id, (), 0, "error", error="simulated fault")])

    def _one_step(self) -> None:
        now = time.perf_counter()
        deltas = [self._advance(live) for live in self._running.values() if live.due <= now]
        for delta in deltas:
            if delta.finish_reason:
                self._count["blocks"] -= self._running.pop(delta.sequence_id).blocks
        self._count["steps"] += 1
        self._count["generated"] += len(deltas)
        if deltas:
            self._on_step(deltas)

    def _advance(self, live: _Live) -> SequenceDelta:
        sampling = live.request.sampling
        if self._faults.eos and live.made >= self._faults.eos and not sampling.ignore_eos:
            return _ended(live.request, next(iter(sampling.stop_token_ids), 0))
        token = (live.start + 7919 * live.made) % self._ordinary
        live.made += 1
        if token in sampling.stop_token_ids and live.made > sampling.min_tokens:
            return _ended(live.request, token)
        reason: FinishReason | None = "length" if live.made >= sampling.max_tokens else None
        log_probs = (LOG_PROB,) if sampling.logprobs else ()
        is_first = live.made == len(live.request.resume_ids) + 1
        prompt = prompt_scores(live.request) if is_first and sampling.prompt_logprobs else None
        cached, begun = (live.cached, live.begun) if is_first else (0, 0.0)
        return SequenceDelta(
            live.request.sequence_id, (token,), 1, reason, log_probs, (), cached, prompt=prompt, scheduled=begun
        )


def _ended(request: EngineRequest, token: int) -> SequenceDelta:
    end = EndToken(token, LOG_PROB if request.sampling.logprobs else None)
    return SequenceDelta(request.sequence_id, (), 1, "stop", end=end)


def create(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    """Start the step thread. Raises ``ValueError`` for a FAULT that does not parse."""
    return SimulatedRuntime(engine, options, on_step, on_death)
