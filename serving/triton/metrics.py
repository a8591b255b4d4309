"""The engine model's families on Triton's metrics port. Triton's Python backend is known here and in ``io``."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb


class Metrics:
    """Prometheus families of the engine model on Triton's metrics port, created at first use."""

    def __init__(self, model: str) -> None:
        """``model``: the label of every series."""
        self._model = model
        self._metrics: dict[tuple[str, ...], Any] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._families: dict[str, Any] = {}

    def info(self, name: str, labels: dict[str, str]) -> None:
        """A gauge of 1 that carries information in its labels, which never change."""
        if self._is_new(name, "", 1):
            self._metric(name, pb.MetricFamily.GAUGE, labels).set(1)

    def histogram(self, name: str, value: float, buckets: list[float]) -> None:
        self._metric(name, pb.MetricFamily.HISTOGRAM, buckets=buckets).observe(value)

    def gauge(self, name: str, value: float) -> None:
        if self._is_new(name, "", value):
            self._metric(name, pb.MetricFamily.GAUGE).set(value)

    def counter(self, name: str, total: float, reason: str = "") -> None:
        """Bring the counter up to ``total``, which only grows."""
        before = self._last.get((name, reason), 0.0)
        if self._is_new(name, reason, total):
            labels = {"reason": reason} if reason else {}
            self._metric(name, pb.MetricFamily.COUNTER, labels).increment(total - before)

    def _is_new(self, name: str, reason: str, value: float) -> bool:
        """Every call is a round trip to Triton: an idle server must not make a hundred of them per second."""
        changed = self._last.get((name, reason)) != value
        self._last[name, reason] = value
        return changed

    def _metric(self, name: str, kind: Any, labels: dict[str, str] | None = None, **more: Any) -> Any:
        labels = {"model_name": self._model, **(labels or {})}
        key = name, *labels.values()
        if key not in self._metrics:
            if name not in self._families:
                self._families[name] = pb.MetricFamily(name=name, description=DESCRIPTIONS[name], kind=kind)
            self._metrics[key] = self._families[name].Metric(labels=labels, **more)
        return self._metrics[key]


DESCRIPTIONS = {
    "vllm:cache_config_info": "The KV cache, in labels",
    "vllm:iteration_tokens_total": "Tokens of an engine step, prompts included: means over 50 ms",
    "vllm:num_preemptions_total": "Sequences that gave their KV blocks back and were computed again",
    "vllm:prefix_cache_queries_total": "Prompt tokens looked up in the prefix cache",
    "qwen_kv_block_tokens": "Tokens of a KV block; 0: the engine does not say",
    "vllm:num_requests_running": "Sequences in the engine's batch",
    "vllm:num_requests_waiting": "Sequences waiting for a place in the batch",
    "vllm:kv_cache_usage_perc": "Used share of the KV blocks, 0 to 1",
    "qwen_kv_blocks_used": "KV blocks in use",
    "qwen_kv_blocks_total": "KV blocks of the engine",
    "qwen_slots_used": "Streams between admission and their last response",
    "qwen_slots_total": "Stream slots of the ack table",
    "qwen_queue_limit": "Sequences that may wait before a request is refused",
    "qwen_honours_cache_salt": "1: prompts share cached prefixes only with those of the same cache_salt",
    "qwen_max_streams": "Sequences the engine decodes at once, at most",
    "vllm:prompt_tokens_total": "Prompt tokens taken in",
    "vllm:generation_tokens_total": "Tokens generated",
    "vllm:prefix_cache_hits_total": "Prompt tokens found in the prefix cache",
    "vllm:spec_decode_num_draft_tokens_total": "Tokens that speculative decoding proposed",
    "vllm:spec_decode_num_accepted_tokens_total": "Proposed tokens that the model accepted",
    "qwen_chunks_total": "Responses sent by the engine step",
    "qwen_streams_finished_total": "Streams by the reason of their end",
}
