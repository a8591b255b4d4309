"""The engine step: a runtime, a dispatcher and their threads in one Triton Python model."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from typing import Any

from contract import engine_dir
from contract.ack_table import AckTable
from contract.errors import InternalError, ServingError
from contract.seal import Seal
from serving import runtimes, tracing
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import RuntimeStats
from serving.streaming.dispatcher import Dispatcher
from serving.triton import io as triton_io
from serving.triton.metrics import Metrics
from serving.triton.settings import StepSettings
from serving.triton.spans import EngineSpans
from serving.triton.stall import StallWatch, limit_of

log = logging.getLogger(__name__)

OCCUPANCY_SECONDS = 0.05  # between updates of the occupancy gauges: load balancers route by them
METRICS_TURNS = 5  # occupancy updates per update of all other metrics
STEP_BUCKETS = [float(2**at) for at in range(14)]
GRACE_SECONDS = 0.5  # between failing all requests of a dead engine and ending the process


class EngineStep:
    """``execute`` only admits; everything else happens in the dispatcher's thread."""

    def __init__(self) -> None:
        self._settings = settings = StepSettings.from_environment()
        info = engine_dir.read(settings.engine_dir)
        self._seal = Seal.of_run(settings.run_dir)
        ack_table = AckTable.create(settings.ack_table, settings.slots)
        self._tracer = tracing.load("engine")
        on_end = EngineSpans(self._tracer, info.model.name).ended if self._tracer else None
        token_bytes = TokenBytes.load(info.path / "tokenizer.json")
        self._dispatcher = Dispatcher(ack_table, settings.run_dir, token_bytes, settings.queue_limit, on_end)
        self._stopping = threading.Event()
        self._dying, self._died = threading.Lock(), False  # the runtime and ``_report`` may both notice
        self._looked = time.monotonic()
        self._runtime = runtimes.load(info, settings.runtime, self._dispatcher.on_step, self._die)
        self._dispatcher.attach(self._runtime)
        self._warmed_up = self._runtime.stats()  # the warm-up's tokens are no client's
        limit = limit_of(info.runtime.name, settings.step_seconds, settings.runtime.step_ms)
        self._stall, self._ack_table = StallWatch(limit), ack_table
        self._metrics = Metrics(info.model.name)
        self._kv_dtype = info.kv_dtype
        self._stepped = self._warmed_up
        for target in (self._dispatcher.run, self._report):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sink = triton_io.ResponseSink(request, self._seal)
            try:
                ids, job = triton_io.job(request, self._seal)
                self._dispatcher.admit(request.request_id(), ids, job, sink)
            except ServingError as problem:
                sink.fail(problem)
            except Exception:
                log.exception("request %s", request.request_id())
                sink.fail(InternalError("engine: the request could not be read; see the server's log"))

    @property
    def ready(self) -> bool:
        return not self._dispatcher.dead

    def close(self) -> None:
        self._stopping.set()
        self._runtime.close()
        self._dispatcher.stop()
        if self._tracer:
            self._tracer.close()

    def _die(self, reason: str) -> None:
        """End every open request with an error, then the process; the supervisor starts a new one."""
        with self._dying:
            if self._stopping.is_set() or self._died:
                return
            self._died = True
        log.error("the engine died: %s", reason)
        (self._settings.run_dir / "dead").write_text(reason)
        self._dispatcher.on_death(reason)
        threading.Timer(GRACE_SECONDS, os._exit, (70,)).start()

    def _report(self) -> None:
        for turn in itertools.count():
            if self._stopping.wait(OCCUPANCY_SECONDS):
                return
            if self._dispatcher.dead:  # it may have noticed first: a silent detokenizer, an error of its own
                self._die(self._dispatcher.dead)
                return
            stats = self._runtime.stats()
            self._look_for_a_stall(stats)
            self._write_occupancy(stats)
            if turn % METRICS_TURNS == 0:
                self._write_metrics(stats)

    def _look_for_a_stall(self, stats: RuntimeStats) -> None:
        now = time.monotonic()
        self._stall.look(stats, self._dispatcher.registry.has_unfinished(), now - self._looked)
        self._looked = now
        self._ack_table.stalled = self._stall.stalled
        if self._stall.dead:
            self._die(self._stall.dead)

    def _write_occupancy(self, stats: RuntimeStats) -> None:
        self._metrics.gauge("qwen_slots_used", len(self._dispatcher.registry.sequences))
        self._metrics.gauge("vllm:num_requests_running", stats.running)
        self._metrics.gauge("vllm:num_requests_waiting", stats.waiting)
        before, self._stepped = self._stepped, stats
        if steps := stats.steps - before.steps:
            tokens = stats.generated_tokens - before.generated_tokens + stats.prompt_tokens - before.prompt_tokens
            self._metrics.histogram("vllm:iteration_tokens_total", tokens / steps, STEP_BUCKETS)

    def _write_metrics(self, stats: RuntimeStats) -> None:
        metrics, registry = self._metrics, self._dispatcher.registry
        metrics.gauge("vllm:kv_cache_usage_perc", stats.kv_blocks_used / max(1, stats.kv_blocks_total))
        metrics.gauge("qwen_kv_blocks_used", stats.kv_blocks_used)
        metrics.gauge("qwen_kv_blocks_total", stats.kv_blocks_total)
        metrics.gauge("qwen_kv_block_tokens", stats.kv_block_tokens)
        if stats.kv_block_tokens:
            sizes = {"block_size": str(stats.kv_block_tokens), "num_gpu_blocks": str(stats.kv_blocks_total)}
            more = {"cache_dtype": self._kv_dtype, "enable_prefix_caching": "True"}
            metrics.info("vllm:cache_config_info", {**sizes, **more})
        metrics.gauge("qwen_slots_total", self._settings.slots)
        metrics.gauge("qwen_queue_limit", self._settings.queue_limit)
        metrics.gauge("qwen_honours_cache_salt", "cache_salt" in self._runtime.capabilities)
        metrics.gauge("qwen_max_streams", self._runtime.limits.max_streams)
        before = self._warmed_up
        metrics.counter("vllm:prompt_tokens_total", stats.prompt_tokens - before.prompt_tokens)
        metrics.counter("vllm:generation_tokens_total", stats.generated_tokens - before.generated_tokens)
        metrics.counter("vllm:prefix_cache_queries_total", stats.prompt_tokens - before.prompt_tokens)
        metrics.counter("vllm:num_preemptions_total", stats.preemptions - before.preemptions)
        metrics.counter("vllm:prefix_cache_hits_total", stats.cached_tokens - before.cached_tokens)
        if stats.drafted_tokens:
            metrics.counter("vllm:spec_decode_num_draft_tokens_total", stats.drafted_tokens - before.drafted_tokens)
            accepted = stats.accepted_tokens - before.accepted_tokens
            metrics.counter("vllm:spec_decode_num_accepted_tokens_total", accepted)
        metrics.counter("qwen_chunks_total", self._dispatcher.chunks_sent)
        for reason, total in registry.finished.items():
            metrics.counter("qwen_streams_finished_total", total, reason)
