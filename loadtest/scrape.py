"""Server figures during the run: queue, running streams, KV use, from a Prometheus text endpoint."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass, field

# Shown in the report when the server has them: this project's names, and those of vLLM and TensorRT-LLM on Triton.
GAUGES = {
    "running": ("vllm:num_requests_running", "nv_trt_llm_request_metrics{request_type=active}"),
    "waiting": ("vllm:num_requests_waiting", "nv_trt_llm_request_metrics{request_type=waiting}"),
    "kv": ("vllm:kv_cache_usage_perc", "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}"),
}
FREED = ('qwen_streams_finished_total{reason="cancelled"}', 'qwen_streams_finished_total{reason="disconnected"}')
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TIMEOUT_S = 2.0


@dataclass(slots=True)
class Sample:
    """One metric line."""

    name: str
    labels: dict[str, str]
    value: float


def parse(text: str) -> list[Sample]:
    """Prometheus text format; comments and lines that are not metrics are passed over."""
    samples = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or line.startswith("#"):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        samples.append(Sample(match[1], dict(_LABEL.findall(match[2] or "")), value))
    return samples


def value_of(samples: list[Sample], selector: str) -> float | None:
    """The sum over all lines of ``name`` or ``name{label=value}``; ``None`` when there is none."""
    name, _, rest = selector.partition("{")
    wanted = dict(pair.replace('"', "").split("=") for pair in rest.rstrip("}").split(",") if pair)
    values = [s.value for s in samples if s.name == name and all(s.labels.get(k) == v for k, v in wanted.items())]
    return sum(values) if values else None


@dataclass(slots=True)
class ServerSeries:
    """name → [(second, value)], and the first and last value of the counters of freed streams."""

    url: str
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    freed: list[float] = field(default_factory=list)
    error: str = ""

    def add(self, second: float, text: str) -> None:
        samples = parse(text)
        for name, selectors in GAUGES.items():
            value = next((v for s in selectors if (v := value_of(samples, s)) is not None), None)
            if value is not None:
                self.points.setdefault(name, []).append((second, value))
        freed = [v for s in FREED if (v := value_of(samples, s)) is not None]
        if freed:
            self.freed = [self.freed[0] if self.freed else sum(freed), sum(freed)]

    @property
    def freed_during_run(self) -> int | None:
        """Streams the server freed because somebody left; ``None`` when it does not say."""
        return int(self.freed[1] - self.freed[0]) if self.freed else None


def fetch(url: str) -> str:
    """Raises ``OSError``."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # the URL is the user's own server
        return str(answer.read().decode("utf-8", "replace"))
