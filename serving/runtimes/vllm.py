"""vLLM in process: token ids to its engine core, token ids back, one list of deltas per engine step.

vLLM's ``AsyncLLM`` puts an asyncio queue, a task wake-up and a ``RequestOutput`` between each token and its consumer: at
256 streams that is 256 of each per step. Both it and ``LLM`` sit on ``EngineCoreClient``, which already delivers one message
per engine step, so this adapter reads that message itself (docs/decisions.md has the measured cost). The names used
beneath vLLM's public interface are pinned by tests/runtimes/test_vllm_surface.py; the version is checked at start.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import queue
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from serving.engine_dir import EngineInfo
from serving.errors import EngineDead, EngineDirectoryError, InvalidRequest
from serving.runtimes import guard, vllm_args
from serving.runtimes.base import OnDeath, OnStep, Runtime, RuntimeLimits, RuntimeOptions, RuntimeStats
from serving.types import EngineRequest, FinishReason, StreamDelta

log = logging.getLogger(__name__)

VERSION = "0.24."
ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # Triton's stub has threads; fork would copy their locks
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
DEATH_POLL_S = 0.5  # a killed engine core leaves no message, only a flag
SHUTDOWN_S = 10.0
FINISH: dict[int, FinishReason] = {
    0: "stop",
    1: "length",
    2: "cancelled",
    3: "error",
    4: "stop",
}  # v1.engine.FinishReason


def create(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    use_interpreter(os.environ.get("PYTHON_EXECUTABLE") or shutil.which("python3") or sys.executable)
    return VllmRuntime(engine, options, on_step, on_death)


def use_interpreter(python: str) -> None:
    """Child processes are started with ``sys.executable``, which in Triton's embedded interpreter may be anything."""
    sys.executable = python
    multiprocessing.set_executable(python)


@dataclass(slots=True)
class _Stream:
    stream_id: int
    stops: frozenset[int]
    logprobs: int  # as in Sampling
    begun: bool = False


class VllmRuntime:
    """Two threads: vLLM's own reads the engine core's socket, ours turns each message into one ``on_step`` call."""

    def __init__(self, engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> None:
        self._vllm = _Vllm(engine, options)
        self._on_step, self._on_death = on_step, on_death
        self._streams: dict[str, _Stream] = {}
        self._request_ids: dict[int, str] = {}
        self._lock = threading.Lock()  # vLLM's input socket and the two tables
        self._serial = itertools.count()
        self._counters = _Counters(blocks=self._vllm.kv_blocks)
        self._closing = False
        self._dead = ""
        self._capabilities = vllm_args.capabilities(engine.path)
        self._limits = RuntimeLimits(
            max_seq_len=self._vllm.max_model_len,
            max_input_len=min(engine.limits.max_input_len, self._vllm.max_model_len - 1),
            vocab_size=self._vllm.vocab_size,
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
            raise EngineDead(f"engine: {self._dead}")
        sampling = request.sampling
        request_id = (
            f"{request.stream_id}-{next(self._serial)}"  # a stream id may come again while vLLM still aborts it
        )
        with self._lock:
            prepared, stops = self._vllm.prepare(request_id, request)
            self._streams[request_id] = _Stream(request.stream_id, stops, sampling.logprobs)
            self._request_ids[request.stream_id] = request_id
            try:
                self._vllm.core.add_request(prepared)
            except Exception as error:
                self._forget(request_id)
                raise EngineDead(f"engine: {error or type(error).__name__}") from error

    def abort(self, stream_id: int) -> None:
        """vLLM answers nothing to an abort, so the last delta is put into its queue here, in order with the real ones."""
        with self._lock:
            request_id = self._request_ids.pop(stream_id, None)
            if request_id is None or self._dead:
                return
            with contextlib.suppress(self._vllm.EngineDeadError):
                self._vllm.core.abort_requests([request_id])
        self._vllm.core.outputs_queue.put_nowait(self._vllm.aborted(request_id))

    def stats(self) -> RuntimeStats:
        with self._lock:
            return self._counters.snapshot()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._vllm.shutdown()
        self._thread.join(2 * DEATH_POLL_S)

    def _run(self) -> None:
        core = self._vllm.core
        while not self._closing:
            try:
                outputs = core.outputs_queue.get(timeout=DEATH_POLL_S)
            except queue.Empty:
                if core.resources.engine_dead:
                    return self._die("the engine core process ended")
                continue
            if isinstance(outputs, Exception):
                return self._die(str(outputs) or type(outputs).__name__)
            try:
                self._deliver(outputs)
            except Exception as error:
                log.exception("vLLM step could not be read")
                return self._die(f"a step could not be read: {error}")

    def _deliver(self, outputs: Any) -> None:
        with self._lock:
            deltas = [delta for output in outputs.outputs if (delta := self._delta(output)) is not None]
            self._counters.add(outputs.scheduler_stats, deltas)
        if deltas:
            self._on_step(deltas)

    def _delta(self, output: Any) -> StreamDelta | None:
        stream = self._streams.get(output.request_id)
        if stream is None:
            return None  # came while its abort was on the way
        ids = output.new_token_ids
        cached = 0
        if not stream.begun:
            stream.begun = True
            if output.prefill_stats is not None:
                cached = output.prefill_stats.num_cached_tokens
                self._counters.begin(output.prefill_stats)
        if output.finish_reason is None and not stream.logprobs:
            return StreamDelta(stream.stream_id, ids, len(ids), cached_tokens=cached)
        return self._full_delta(stream, output, cached)

    def _full_delta(self, stream: _Stream, output: Any, cached: int) -> StreamDelta:
        ids = output.new_token_ids
        counted = len(ids)
        finish = None if output.finish_reason is None else FINISH[int(output.finish_reason)]
        if finish:
            self._forget(output.request_id)
            if finish == "stop" and ids and ids[-1] in stream.stops:
                ids = ids[:-1]
        chosen, top = _log_probs(output.new_logprobs, len(ids), stream.logprobs)
        error = "engine: vLLM failed on this request; its log says why" if finish == "error" else ""
        return StreamDelta(stream.stream_id, ids, counted, finish, chosen, top, cached, error)

    def _forget(self, request_id: str) -> None:
        stream = self._streams.pop(request_id, None)
        if stream and self._request_ids.get(stream.stream_id) == request_id:
            del self._request_ids[stream.stream_id]

    def _die(self, reason: str) -> None:
        if self._closing:
            return
        self._dead = f"vLLM's engine died ({reason}); the server restarts it"
        log.error("%s", self._dead)
        self._on_death(self._dead)


def _log_probs(lists: Any, count: int, wanted: int) -> tuple[list[float], list[tuple[tuple[int, float], ...]]]:
    """``LogprobsLists`` rows are [chosen, 1st, 2nd, …], as wide as the batch's widest request."""
    if lists is None or not wanted:
        return [], []
    values = lists.logprobs[:count, :wanted].tolist()
    chosen = [row[0] for row in values]
    if wanted == 1:
        return chosen, []
    ids = lists.logprob_token_ids[:count, :wanted].tolist()
    return chosen, [tuple(zip(row_ids[1:], row[1:], strict=True)) for row_ids, row in zip(ids, values, strict=True)]


class _Vllm:
    """Everything that touches a ``vllm`` name. Built in the caller's thread; blocks until the engine core is ready."""

    def __init__(self, engine: EngineInfo, options: RuntimeOptions) -> None:
        self._modules = _import()
        args = self._modules.AsyncEngineArgs(**vllm_args.engine_args(engine, options))
        config = args.create_engine_config(self._modules.UsageContext.OPENAI_API_SERVER)
        self._inputs = self._modules.InputProcessor(config, self._modules.renderer_from_config(config))
        self.EngineDeadError: type[Exception] = self._modules.EngineDeadError
        try:
            self.core = self._modules.EngineCoreClient.make_client(
                multiprocess_mode=True, asyncio_mode=False, vllm_config=config,
                executor_class=self._modules.Executor.get_class(config), log_stats=True,
            )  # fmt: skip
        except RuntimeError as error:
            raise EngineDead(f"engine: vLLM did not start ({error}); its own lines above say why") from error
        self._guard: subprocess.Popen[bytes] | None = guard.start(
            [process.pid for process in self.core.resources.engine_manager.processes], sys.executable
        )
        self._tasks = self.core.get_supported_tasks()
        self._end_ids = vllm_args.end_ids(engine.path)
        self._loras = {path.name: (number, path) for number, path in enumerate(vllm_args.lora_adapters(engine.path), 1)}
        self.max_model_len = int(config.model_config.max_model_len)
        self.vocab_size = int(config.model_config.get_vocab_size())
        self.kv_blocks = int(config.cache_config.num_gpu_blocks) - 1  # the null block is never given out

    def prepare(self, request_id: str, request: EngineRequest) -> tuple[Any, frozenset[int]]:
        """An ``EngineCoreRequest`` and the ids that end it. Raises ``InvalidRequest`` for what vLLM refuses."""
        try:
            args = vllm_args.sampling_args(request.sampling, self._end_ids)
            params = self._modules.SamplingParams(**args, structured_outputs=self._guide(request))
            if request.sampling.bad_words:
                params._bad_words_token_ids = [list(word) for word in request.sampling.bad_words]
            prepared = self._inputs.process_inputs(
                request_id, self._modules.tokens_input(list(request.input_ids)), params, self._tasks,
                lora_request=self._lora(request.lora_name), priority=-request.priority,
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            field = getattr(error, "parameter", None) or (
                "guided_decoding_guide" if request.sampling.guide else "request"
            )
            raise InvalidRequest(str(field), " ".join(str(error).split())) from error
        prepared.external_req_id = request_id
        return prepared, frozenset(args["stop_token_ids"])

    def aborted(self, request_id: str) -> Any:
        output = self._modules.EngineCoreOutput(request_id, [], finish_reason=self._modules.FinishReason.ABORT)
        return self._modules.EngineCoreOutputs(outputs=[output])

    def shutdown(self) -> None:
        try:
            self.core.shutdown(timeout=SHUTDOWN_S)
        finally:
            if self._guard:
                guard.stop(self._guard)
                self._guard = None

    def _guide(self, request: EngineRequest) -> Any:
        guide = request.sampling.guide
        return self._modules.StructuredOutputsParams(**vllm_args.guide_args(guide)) if guide else None

    def _lora(self, name: str) -> Any:
        if not name:
            return None
        if name not in self._loras:
            raise InvalidRequest(
                "lora_name", f"{name!r} is not loaded; the engine has {', '.join(sorted(self._loras))}"
            )
        number, path = self._loras[name]
        return self._modules.LoRARequest(name, number, str(path))


@dataclass(slots=True)
class _Counters:
    blocks: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    scheduler: Any = None

    def begin(self, prefill: Any) -> None:
        self.prompt_tokens += prefill.num_prompt_tokens
        self.cached_tokens += prefill.num_cached_tokens

    def add(self, scheduler: Any, deltas: list[StreamDelta]) -> None:
        self.generated_tokens += sum(delta.counted for delta in deltas)
        if scheduler is not None:
            self.steps += 1
            self.scheduler = scheduler

    def snapshot(self) -> RuntimeStats:
        now = self.scheduler
        return RuntimeStats(
            running=now.num_running_reqs if now else 0,
            waiting=now.num_waiting_reqs + now.num_skipped_waiting_reqs if now else 0,
            kv_blocks_used=round(now.kv_cache_usage * self.blocks) if now else 0,
            kv_blocks_total=self.blocks,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            steps=self.steps,
        )


def _import() -> Any:
    """The names of vLLM that are used, in one object, or one line about what to install."""
    try:
        import vllm
    except ImportError as error:
        raise EngineDirectoryError(
            f"this engine runs on vLLM, which cannot be imported here ({error}): `pip install vllm=={VERSION}0` on a GPU "
            "host, or choose another engine with ENGINE=<dir>"
        ) from error
    if not vllm.__version__.startswith(VERSION):
        raise EngineDirectoryError(
            f"vLLM {vllm.__version__} is installed, this runtime is written for {VERSION}x: `pip install vllm=={VERSION}0`"
        )
    from serving.runtimes import vllm_names

    return vllm_names
