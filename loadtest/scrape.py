"""Server figures during the run: queue, running streams, KV use and freed streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client.samples import Sample

from loadtest.prometheus import value_of

# Shown in the report when the server has them: this project's names, and those of vLLM and TensorRT-LLM on Triton.
GAUGES = {
    "running": ("vllm:num_requests_running", "nv_trt_llm_request_metrics{request_type=active}"),
    "waiting": ("vllm:num_requests_waiting", "nv_trt_llm_request_metrics{request_type=waiting}"),
    "kv": ("vllm:kv_cache_usage_perc", "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}"),
}
FREED = ('qwen_streams_finished_total{reason="cancelled"}', 'qwen_streams_finished_total{reason="disconnected"}')
TIMEOUT_S = 2.0


@dataclass(slots=True)
class ServerSeries:
    """name → [(second, value)], and the first and last value of the counters of freed streams."""

    url: str
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    freed: list[float] = field(default_factory=list)
    error: str = ""

    def add(self, second: float, samples: Sequence[Sample]) -> None:
        for name, selectors in GAUGES.items():
            value = next((v for s in selectors if (v := value_of(samples, s)) is not None), None)
            if value is not None:
                self.points.setdefault(name, []).append((second, value))
        freed = [v for s in FREED if (v := value_of(samples, s)) is not None]
        if freed:
            self.freed = [self.freed[0] if self.freed else sum(freed), sum(freed)]

    @property
    def freed_during_run(self) -> int | None:
        """Streams the server freed because their client left; ``None`` when the server does not report it."""
        return int(self.freed[1] - self.freed[0]) if self.freed else None
