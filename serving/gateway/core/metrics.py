"""Prometheus metrics of the gateway, aggregated over all workers, under the names vLLM dashboards use.

The supervisor sets PROMETHEUS_MULTIPROC_DIR before a worker imports this module.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "GatewayMetrics"]

_TTFT = (.005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 1.5, 2, 3, 5, 10, 20, 40, 80)  # fmt: skip
_ITL = (.001, .0025, .005, .0075, .01, .015, .02, .025, .03, .04, .05, .075, .1, .15, .2, .3, .5, 1, 2, 5)  # fmt: skip
_E2E = (.05, .1, .25, .5, .75, 1, 1.5, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200)  # fmt: skip
_QUEUE = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)  # fmt: skip
OPEN = "qwen_gateway_open_requests"
_TOKENS = tuple(2**i for i in range(18))


class GatewayMetrics:
    """Label children are resolved once: a chunk costs one ``observe``."""

    def __init__(self, model: str) -> None:
        registry = CollectorRegistry()

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(name, about, ["model_name"], buckets=buckets, registry=registry)
            return made.labels(model)

        self.ttft = histogram(
            "vllm:time_to_first_token_seconds", "From the request's last byte to the first text sent", _TTFT
        )
        self.itl = histogram("vllm:inter_token_latency_seconds", "Between the engine's messages of one answer", _ITL)
        self.e2e = histogram(
            "vllm:e2e_request_latency_seconds", "From the request's first byte to the answer's last", _E2E
        )
        self.queue = histogram(
            "vllm:request_queue_time_seconds",
            "In the gateway, until handed to Triton; the engine's own queue is vllm:num_requests_waiting",
            _QUEUE,
        )
        self.prompt_tokens = histogram("vllm:request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self.output_tokens = histogram("vllm:request_generation_tokens", "Output tokens of a request", _TOKENS)
        self._most_tokens = histogram(
            "vllm:request_max_num_generation_tokens", "Output tokens of a request's longest choice", _TOKENS
        )
        self._max_tokens = histogram("vllm:request_params_max_tokens", "max_tokens, where it was given", _TOKENS)
        self._n = histogram("vllm:request_params_n", "Choices asked for per prompt", (1, 2, 5, 10, 20))
        self._prefill = histogram(
            "vllm:request_prefill_time_seconds", "From handing to Triton to the first token, its queue included",
            _E2E,
        )  # fmt: skip
        self._decode = histogram("vllm:request_decode_time_seconds", "From the first token to the last", _E2E)
        self._inference = histogram(
            "vllm:request_inference_time_seconds", "From handing to Triton to the last token", _E2E
        )
        self._tpot = histogram(
            "vllm:request_time_per_output_token_seconds", "Decode time per token after the first, one choice", _ITL
        )
        self._finished = Counter(
            "vllm:request_success", "Choices by finish reason", ["model_name", "finished_reason"], registry=registry
        )
        self._answers = Counter("qwen_gateway_requests", "HTTP answers", ["path", "status"], registry=registry)
        self.gone = Counter(
            "qwen_gateway_disconnects", "Clients that disconnected before their answer ended", registry=registry
        )
        self.open = Gauge(OPEN, "Requests in progress", registry=registry, multiprocess_mode="livesum")
        self.waiting = Gauge(
            "qwen_gateway_waiting_requests", "Calls that wait in the gateway for a place at the engine",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._model, self._registry = model, registry
        # a rate needs the zero that came before the first event
        for reason in ("stop", "length", "tool_calls", "repetition"):
            self._finished.labels(model, reason)

    def asked(self, n: int, max_tokens: int | None) -> None:
        self._n.observe(n)
        if max_tokens:
            self._max_tokens.observe(max_tokens)

    def generated(self, prompt_tokens: int, tokens: list[int]) -> None:
        """``tokens``: of each choice."""
        self.prompt_tokens.observe(prompt_tokens)
        self.output_tokens.observe(sum(tokens))
        self._most_tokens.observe(max(tokens))

    def took(self, sent: float, first: float, last: float, tokens: int, *, in_pieces: bool) -> None:
        """Monotonic seconds of a finished answer; ``tokens`` of its only choice, 0 for several."""
        self._inference.observe(last - sent)
        if in_pieces:  # otherwise the first message is also the last
            self._prefill.observe(first - sent)
            self._decode.observe(last - first)
            if tokens > 1:
                self._tpot.observe((last - first) / (tokens - 1))

    def finished(self, reason: str) -> None:
        self._finished.labels(self._model, reason).inc()

    def answered(self, path: str, status: int) -> None:
        self._answers.labels(path, str(status)).inc()

    def open_requests(self) -> int:
        """Requests in progress, over all workers."""
        metrics = self._collected().collect()
        return int(sum(sample.value for metric in metrics if metric.name == OPEN for sample in metric.samples))

    def text(self) -> bytes:
        """The exposition text, over all workers when there are several."""
        return generate_latest(self._collected())

    def _collected(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
