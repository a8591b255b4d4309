"""vLLM in process: token ids to its engine core, token ids back, one list of deltas per engine step.

vLLM's ``AsyncLLM`` puts an asyncio queue, a task wake-up and a ``RequestOutput`` between each token and its consumer:
256 of each per step at 256 streams. Beneath it is ``EngineCoreClient``, which already delivers one message per step, so
this adapter reads that message directly (docs/decisions.md has the measured cost). All names from beneath vLLM's public
interface are in ``core.py``, where a surface test pins them; ``releases.py`` checks the version.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import queue
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from contract.engine_dir import EngineInfo
from contract.errors import EngineUnavailable, InternalError, InvalidRequest, ServingError, restarting, to_wire
from contract.finish import FinishReason
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
from serving.runtimes.resume import as_prompt, prompt_cached
from serving.runtimes.vllm import args as vllm_args
from serving.runtimes.vllm import fork_server, releases
from serving.runtimes.vllm.counters import Counters
from serving.runtimes.vllm.scores import log_probs, prompt_scores

if TYPE_CHECKING:
    from serving.runtimes.vllm.core import Core

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # Triton's stub has threads; fork would copy their locks
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
DEATH_POLL_S = 0.5
ENDED = "its process ended"
GUIDE_THREADS = 2  # a large grammar does not delay a small one
SCHEDULED, PREEMPTED = 2, 3  # vllm.v1.engine.EngineCoreEventType
FINISH: tuple[FinishReason, ...] = (  # by vllm.v1.engine.FinishReason
    "stop", "length", "cancelled", "error", "repetition",
)  # fmt: skip


def create(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    use_interpreter(os.environ.get("PYTHON_EXECUTABLE") or sys.executable or shutil.which("python3") or "python3")
    forks = fork_server.start()
    set_environment(engine)
    from serving.runtimes.vllm.core import Core

    if forks:
        fork_server.use(releases.bound_wake_ups)
    return VllmRuntime(Core(engine, options), engine, options, on_step, on_death)


def set_environment(engine: EngineInfo) -> None:
    """What vLLM reads from the environment, unless the user has set it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gpus = engine.gpu.tensor_parallel if engine.gpu else 1
    for name, value in releases.environment(releases.check(), engine.runtime.options, gpus).items():
        os.environ.setdefault(name, value)


def use_interpreter(python: str) -> None:
    """Child processes are started with ``sys.executable``, which in Triton's embedded interpreter may be anything."""
    sys.executable = python
    multiprocessing.set_executable(python)


@dataclass(slots=True)
class _VllmSequence:
    request: EngineRequest
    stops: frozenset[int] = frozenset()
    begun: bool = False

    @property
    def sequence_id(self) -> int:
        return self.request.sequence_id


@dataclass(frozen=True, slots=True)
class _RefusedGuide:
    """Among the engine core's messages: a guided sequence that never got there."""

    request_id: str
    error: str  # as on the wire


class VllmRuntime:
    """Two threads: vLLM's own reads the engine core's socket, ours turns each message into one ``on_step`` call."""

    def __init__(
        self, core: Core, engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath
    ) -> None:
        self._core = core
        self._on_step, self._on_death = on_step, on_death
        self._sequences: dict[str, _VllmSequence] = {}
        self._request_ids: dict[int, str] = {}
        self._lock = threading.Lock()  # the core's input side except ``prepare``, the two tables and the counters
        # A sequence id may come again while vLLM still aborts its last owner, so vLLM sees unique ids.
        self._serial = itertools.count()
        self._counters = Counters(core.kv_blocks, core.kv_block_tokens)
        self._guided = ThreadPoolExecutor(GUIDE_THREADS, "vllm-guides")
        self._closing = False
        self._dead = ""
        self._capabilities = vllm_args.capabilities(engine, core.lacking)
        self._limits = RuntimeLimits(
            max_seq_len=core.max_model_len,
            max_input_len=min(engine.limits.max_input_len, core.max_model_len - 1),
            vocab_size=core.vocab_size,
            max_streams=options.max_streams,
        )
        self._thread = threading.Thread(target=self._run, name="vllm-steps", daemon=True)
        self._thread.start()

    @property
    def limits(self) -> RuntimeLimits:
        return self._limits

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    def submit(self, request: EngineRequest) -> None:
        if self._dead:
            raise EngineUnavailable(restarting(self._dead))
        request = as_prompt(request, self._limits.max_input_len)
        request_id = f"{request.sequence_id}-{next(self._serial)}"
        with self._lock:
            self._sequences[request_id] = _VllmSequence(request)
            self._request_ids[request.sequence_id] = request_id
        if request.sampling.guide:  # vLLM parses its grammar at once, which may take seconds: nobody waits for it
            self._guided.submit(self._enter_guided, request_id, request)
            return
        try:
            self._send(request_id, request, *self._core.prepare(request_id, request))
        except Exception:
            with self._lock:
                self._forget(request_id)
            raise

    def _send(self, request_id: str, request: EngineRequest, prepared: Any, stops: frozenset[int]) -> None:
        with self._lock:
            if self._request_ids.get(request.sequence_id) != request_id:
                return  # aborted while it was prepared: its last output is on its way
            self._sequences[request_id].stops = stops
            try:
                self._core.send(prepared)
            except Exception as error:
                raise EngineUnavailable(f"engine: {error or type(error).__name__}") from error

    def _enter_guided(self, request_id: str, request: EngineRequest) -> None:
        """Prepare and send a guided sequence, in a thread of the pool. A refusal becomes the sequence's last delta."""
        try:
            self._send(request_id, request, *self._prepare_guided(request_id, request))
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("sequence %d", request.sequence_id)
                error = InternalError("engine: the request could not be read; see the server's log")
            self._core.outputs.put(_RefusedGuide(request_id, to_wire(error)))

    def _prepare_guided(self, request_id: str, request: EngineRequest) -> tuple[Any, frozenset[int]]:
        guide = request.sampling.guide
        try:
            return self._core.prepare(request_id, request)
        except InvalidRequest as error:
            if guide is None or not guide.optional:
                raise
            log.info("sequence %d goes without its optional guide: %s", request.sequence_id, error)
        return self._core.prepare(request_id, replace(request, sampling=replace(request.sampling, guide=None)))

    def abort(self, sequence_id: int) -> None:
        with self._lock:
            request_id = self._request_ids.pop(sequence_id, None)
            if request_id is not None and not self._dead:
                self._core.abort(request_id)

    def stats(self) -> RuntimeStats:
        with self._lock:
            return self._counters.snapshot()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._guided.shutdown(wait=False, cancel_futures=True)
        self._core.shutdown()
        self._thread.join(2 * DEATH_POLL_S)

    def _run(self) -> None:
        try:
            while not self._closing and not self._core.dead:
                try:
                    outputs = self._core.outputs.get(timeout=DEATH_POLL_S)
                except queue.Empty:
                    continue
                if isinstance(outputs, Exception):
                    raise outputs
                if isinstance(outputs, _RefusedGuide):
                    self._refuse(outputs)
                else:
                    self._deliver(outputs)
            reason = ENDED
        except Exception as error:
            if self._core.dead:  # vLLM's exception says no more than that, and the engine core's own lines say why
                reason = ENDED
            else:
                log.exception("vLLM's outputs cannot be read any more")
                reason = str(error) or type(error).__name__
        if not self._closing:
            self._dead = f"vLLM's engine core died ({reason})"
            self._on_death(self._dead)

    def _refuse(self, refused: _RefusedGuide) -> None:
        with self._lock:
            sequence = self._sequences.get(refused.request_id)
            self._forget(refused.request_id)
        if sequence:
            self._on_step([SequenceDelta(sequence.sequence_id, (), 0, "error", error=refused.error)])

    def _deliver(self, outputs: Any) -> None:
        with self._lock:
            deltas = [delta for output in outputs.outputs if (delta := self._delta(output)) is not None]
            self._counters.preemptions += sum(
                event.type == PREEMPTED for output in outputs.outputs if output.events for event in output.events
            )
            self._counters.add(outputs.scheduler_stats, deltas)
        if deltas:
            self._on_step(deltas)

    def _delta(self, output: Any) -> SequenceDelta | None:
        sequence = self._sequences.get(output.request_id)
        if sequence is None:
            return None  # it was already on its way when the sequence was aborted
        ids = output.new_token_ids
        cached, scheduled = 0, 0.0
        if not sequence.begun and output.prefill_stats is not None:
            sequence.begun = True
            scheduled = next((event.timestamp for event in output.events or () if event.type == SCHEDULED), 0.0)
            cached = prompt_cached(sequence.request, output.prefill_stats.num_cached_tokens)
            self._counters.begin(output.prefill_stats)
        sampling = sequence.request.sampling
        if output.finish_reason is None and not (sampling.logprobs or sampling.prompt_logprobs):
            return SequenceDelta(sequence.sequence_id, ids, len(ids), cached_tokens=cached, scheduled=scheduled)
        return self._full_delta(sequence, output, cached)._replace(scheduled=scheduled)

    def _full_delta(self, sequence: _VllmSequence, output: Any, cached: int) -> SequenceDelta:
        """A last delta, or one with log probabilities. vLLM keeps the stop token in the ids."""
        ids, sampling = output.new_token_ids, sequence.request.sampling
        counted = len(ids)
        finish = None if output.finish_reason is None else FINISH[output.finish_reason]
        chosen, top = log_probs(output.new_logprobs, counted, sampling.logprobs)
        end = None
        if finish:
            self._forget(output.request_id)
            if finish == "stop" and ids and ids[-1] in sequence.stops:
                end = EndToken(ids[-1], chosen[-1] if chosen else None, top[-1] if top else ())
                ids, chosen, top = ids[:-1], chosen[:-1], top[:-1]
        prompt = prompt_scores(output.new_prompt_logprobs_tensors, sampling.prompt_logprobs)
        error = "engine: vLLM failed on this request; its log says why" if finish == "error" else ""
        return SequenceDelta(sequence.sequence_id, ids, counted, finish, chosen, top, cached, error, prompt, end=end)

    def _forget(self, request_id: str) -> None:
        sequence = self._sequences.pop(request_id, None)
        if sequence and self._request_ids.get(sequence.sequence_id) == request_id:
            del self._request_ids[sequence.sequence_id]
