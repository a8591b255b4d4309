"""The runtime protocol over one loaded ``LLM`` of TensorRT-LLM.

One asyncio loop in one thread owns the requests: one task per sequence reads the results, and whatever arrives within
one turn of the loop leaves as one ``on_step`` call. A dead worker blocks that loop forever, so another thread watches
it (``watcher``), and a third one reads the statistics, which may block too.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from contract.engine_dir import EngineInfo
from contract.errors import EngineUnavailable, restarting
from serving.runtimes import guard, resume
from serving.runtimes.base import EngineRequest, OnDeath, OnStep, RuntimeLimits, RuntimeStats, SequenceDelta
from serving.runtimes.tensorrt_llm import args as tensorrt_llm_args
from serving.runtimes.tensorrt_llm import params as tensorrt_llm_params
from serving.runtimes.tensorrt_llm.loaded import LoadedLlm
from serving.runtimes.tensorrt_llm.output_reader import OutputReader
from serving.runtimes.tensorrt_llm.statistics import Statistics
from serving.runtimes.tensorrt_llm.watcher import WATCH_S, Watcher

log = logging.getLogger(__name__)
DRAIN_S = 5.0  # how long an aborted sequence may take to end by itself
SHUTDOWN_S = 6.0  # with the guard's own grace period `close` stays within its 20 s
STALL_S = 120.0  # without a token of any sequence: the executor is dead, even if it reports nothing


@dataclass(slots=True)
class LiveSequence:
    """A sequence between submit and its last delta. ``result`` is TensorRT-LLM's handle, None until it is submitted."""

    request: EngineRequest
    reader: OutputReader
    result: Any = None
    aborted: bool = False
    task: asyncio.Task[None] | None = None


class TensorRtLlm:
    """Create it with ``serving.runtimes.tensorrt_llm.runtime.create``."""

    def __init__(self, loaded: LoadedLlm, engine: EngineInfo, on_step: OnStep, on_death: OnDeath) -> None:
        self._loaded, self._on_step, self._on_death = loaded, on_step, on_death
        self._llm = loaded.llm
        self._limits = _limits(engine, loaded.max_streams)
        self._eos = tensorrt_llm_args.end_ids(engine.path)[0]
        self._live: dict[int, LiveSequence] = {}
        self._pending: list[SequenceDelta] = []
        self._flushing = False
        self._dead = ""
        self._closed = False
        self._ending = threading.Lock()  # the last ``on_step`` returns before ``on_death`` is called
        self._totals = {"prompt": 0, "cached": 0, "generated": 0, "steps": 0}
        self._statistics = Statistics(loaded.llm)
        self._progress = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._guard = guard.start(loaded.children, sys.executable) if loaded.children else None
        self._watcher = Watcher(loaded.children, self._stalled, self._die)
        self._thread = threading.Thread(target=self._run, name="tensorrt_llm", daemon=True)
        self._thread.start()
        self._watcher.start()
        threading.Thread(target=self._measure, name="tensorrt_llm-statistics", daemon=True).start()

    # ---- the protocol, called from any thread

    @property
    def limits(self) -> RuntimeLimits:
        return self._limits

    @property
    def capabilities(self) -> frozenset[str]:
        return self._loaded.capabilities

    @property
    def loaded(self) -> LoadedLlm:
        """TensorRT-LLM's own object and its worker processes, for `make probe`."""
        return self._loaded

    def submit(self, request: EngineRequest) -> None:
        self._post(self._start, resume.as_prompt(request, self._limits.max_input_len))

    def abort(self, sequence_id: int) -> None:
        if not self._dead and not self._closed:
            self._post(self._abort, sequence_id)

    def stats(self) -> RuntimeStats:
        live = list(self._live.values())
        running = sum(sequence.reader.started for sequence in live)
        used, total = self._statistics.blocks
        return RuntimeStats(
            running=running,
            waiting=len(live) - running,
            kv_blocks_used=used if live else 0,  # no record is made while idle, so the last one is stale
            kv_blocks_total=total,
            prompt_tokens=self._totals["prompt"],
            cached_tokens=self._totals["cached"],
            generated_tokens=self._totals["generated"],
            steps=self._totals["steps"],
        )

    def close(self) -> None:
        """Shut down within ``SHUTDOWN_S``; the guard process ends whatever is still running then."""
        if self._closed:
            return
        self._closed = True
        self._watcher.stop()
        with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(2.0)
        stopper = threading.Thread(target=self._shutdown, name="tensorrt_llm-shutdown", daemon=True)
        stopper.start()
        stopper.join(SHUTDOWN_S)
        if stopper.is_alive():
            log.warning("TensorRT-LLM did not shut down within %.0f s; its processes are ended", SHUTDOWN_S)
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        if self._guard:
            guard.stop(self._guard)

    def _post(self, function: Any, argument: Any) -> None:
        if self._dead or self._closed:
            raise EngineUnavailable(restarting(self._dead) if self._dead else "engine: shutting down")
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError as error:
            raise EngineUnavailable("engine: shutting down") from error

    def _shutdown(self) -> None:
        try:
            self._llm.shutdown()
        except RuntimeError as error:
            log.warning("TensorRT-LLM failed while shutting down: %s", error)

    # ---- the loop thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def _start(self, request: EngineRequest) -> None:
        if not self._live:
            self._progress = time.monotonic()
        sequence = LiveSequence(request, OutputReader(request))
        self._live[request.sequence_id] = sequence
        sequence.task = self._loop.create_task(self._follow(sequence))

    def _abort(self, sequence_id: int) -> None:
        sequence = self._live.get(sequence_id)
        if sequence is None or sequence.aborted:
            return
        sequence.aborted = True
        if sequence.result is not None:
            sequence.result.abort()
        self._loop.call_later(DRAIN_S, self._give_up, sequence)

    def _give_up(self, sequence: LiveSequence) -> None:
        if self._live.get(sequence.request.sequence_id) is sequence:
            if sequence.task:
                sequence.task.cancel()
            self._finish(sequence, SequenceDelta(sequence.request.sequence_id, (), 0, "cancelled"))

    async def _follow(self, sequence: LiveSequence) -> None:
        """Read one request to its end. After an exception the result object is never touched again: it would hang."""
        try:
            sequence.result = self._generate(sequence.request)
            if sequence.aborted:
                sequence.result.abort()
            async for item in sequence.result:
                delta = sequence.reader.take(item)
                if delta is not None:
                    self._emit(sequence, delta)
                if item.finished:
                    return
            raise RuntimeError("the result ended without a last item")
        except (self._loaded.package.request_error, ValueError, TypeError) as error:  # this request only
            self._finish(sequence, _failed(sequence, f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001 - anything else means that TensorRT-LLM has shut itself down
            if self._pending:
                self._flush()
            self._die(f"TensorRT-LLM failed ({type(error).__name__}: {error})")

    def _generate(self, request: EngineRequest) -> Any:
        """Needs the running loop. Keywords only: positions differ between versions."""
        arguments: dict[str, Any] = {
            "inputs": [int(token) for token in request.input_ids],
            "sampling_params": tensorrt_llm_params.build(
                self._loaded.package.sampling_params, request.sampling, self._eos
            ),
            "streaming": True,
        }
        if self._loaded.surface.has_priority:
            arguments["priority"] = tensorrt_llm_params.priority(request.priority)
        if request.cache_salt:  # admitted only where the release has it
            arguments["cache_salt"] = request.cache_salt
        self._totals["prompt"] += len(request.input_ids) - len(request.resume_ids)
        return self._llm.generate_async(**arguments)

    def _emit(self, sequence: LiveSequence, delta: SequenceDelta) -> None:
        """Collect the deltas of this turn of the loop; they are flushed together at its end."""
        if delta.finish_reason:
            self._live.pop(sequence.request.sequence_id, None)
        self._totals["generated"] += delta.counted
        self._totals["cached"] += delta.cached_tokens
        self._progress = time.monotonic()
        self._pending.append(delta)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _finish(self, sequence: LiveSequence, delta: SequenceDelta) -> None:
        if sequence.request.sequence_id in self._live:
            self._emit(sequence, delta)

    def _flush(self) -> None:
        self._flushing = False
        with self._ending:
            if self._dead:
                return
            batch, self._pending = self._pending, []
            self._totals["steps"] += 1
            self._on_step(batch)

    def _die(self, reason: str) -> None:
        """Callable from any thread, because the loop may be blocked forever."""
        with self._ending:
            if self._dead or self._closed:
                return
            self._dead = reason
            live, self._live = self._live, {}
        self._on_death(reason)
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(_cancel, [sequence.task for sequence in live.values()])

    async def _cancel_all(self) -> None:
        for sequence in list(self._live.values()):
            if sequence.task:
                sequence.task.cancel()
            self._finish(sequence, SequenceDelta(sequence.request.sequence_id, (), 0, "cancelled"))
        if self._pending:
            self._flush()

    # ---- other threads

    def _stalled(self) -> str:
        stalled = time.monotonic() - self._progress
        if self._live and stalled > STALL_S:
            return f"no token for {stalled:.0f} s with {len(self._live)} streams open"
        return ""

    def _measure(self) -> None:
        """Statistics for the gauges, and 1.4's own health. Asking may block for as long as the executor does."""
        healthy = getattr(self._llm, "_check_health", None)
        while not self._dead and not self._closed:
            time.sleep(WATCH_S)
            if healthy and not healthy():
                self._die("TensorRT-LLM reports that its executor is unhealthy")
            if self._live:
                self._statistics.poll()


def _limits(engine: EngineInfo, streams: int) -> RuntimeLimits:
    limits = engine.limits
    return RuntimeLimits(limits.max_seq_len, limits.max_input_len, engine.model.vocab_size, streams)


def _failed(sequence: LiveSequence, text: str) -> SequenceDelta:
    return SequenceDelta(sequence.request.sequence_id, (), 0, "error", error=text)


def _cancel(tasks: list[asyncio.Task[None] | None]) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
