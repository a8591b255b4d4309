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
# All that ended, whatever the reason: of this project, of vLLM, of any Triton (each step of an ensemble by itself).
ENDED = ("qwen_streams_finished_total", "vllm:request_success_total", "nv_inference_request_success")
TIMEOUT_S = 2.0


@dataclass(slots=True)
class ServerSeries:
    """name → [(second, value)], and the first and last value of the counters of freed and of ended streams."""

    url: str
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    freed: list[float] = field(default_factory=list)
    error: str = ""
    ended: list[float] = field(default_factory=list)

    def add(self, second: float, samples: Sequence[Sample]) -> None:
        for name, selectors in GAUGES.items():
            value = next((v for s in selectors if (v := value_of(samples, s)) is not None), None)
            if value is not None:
                self.points.setdefault(name, []).append((second, value))
        freed = [v for s in FREED if (v := value_of(samples, s)) is not None]
        if freed:
            self.freed = [self.freed[0] if self.freed else sum(freed), sum(freed)]
        ended = next((v for s in ENDED if (v := value_of(samples, s)) is not None), None)
        if ended is not None:
            self.ended = [self.ended[0] if self.ended else ended, ended]

    @property
    def ended_during_run(self) -> int | None:
        """Streams that ended there, whosever; ``None`` when the server does not count them."""
        if not self.ended:
            return None
        first, last = self.ended
        return int(last - first if last >= first else last)  # started again: counted anew

    @property
    def freed_during_run(self) -> int | None:
        """Streams the server freed because their client left; ``None`` when the server does not report it."""
        return int(self.freed[1] - self.freed[0]) if self.freed else None
