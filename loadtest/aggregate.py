"""Figures of many requests, mergeable over workers: counts, tokens, histograms and a per-second timeline."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from loadtest.histogram import Histogram
from loadtest.record import METRICS, Record
from loadtest.slo import Slo

COUNTERS = (
    "scheduled", "completed", "failed", "cancelled", "in_flight", "good", "warmup",
    "messages", "window_messages", "window_tokens", "window_completed", "window_good",
    "prompt_tokens", "completion_tokens", "cached_tokens", "requested_tokens", "length_mismatches", "uncounted",
)  # fmt: skip
WAITED = ("ttft_sched", "e2e_sched")


@dataclass(slots=True)
class Lane:
    """All requests over one transport. ``window_*`` count what arrived inside the measured window; ``uncounted`` are
    answers whose tokens the server did not count."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    errors: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in METRICS})
    # How long those had waited that were in flight at the run's end, or gave up: their latency is at least that.
    waited: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in WAITED})
    per_second: dict[int, int] = field(default_factory=dict)  # second of the run -> tokens received

    def scheduled(self, measured: bool) -> None:
        self.counts["scheduled" if measured else "warmup"] += 1

    def message(self, second: int, tokens: int, in_window: bool) -> None:
        self.per_second[second] = self.per_second.get(second, 0) + tokens
        self.counts["messages"] += 1
        if in_window:
            self.counts["window_messages"] += 1
            self.counts["window_tokens"] += tokens

    def more_tokens(self, second: int, tokens: int, in_window: bool) -> None:
        """Tokens of a message that was counted with fewer."""
        self.per_second[second] = self.per_second.get(second, 0) + tokens
        self.counts["window_tokens"] += tokens * in_window

    def finish(self, record: Record, slo: Slo, in_window: bool) -> None:
        """Count a request that ended, or that was in flight when the run stopped."""
        if in_window and record.outcome == "completed":
            self.counts["window_completed"] += 1
            self.counts["window_good"] += slo.is_good(record.slo_values())
        if not record.measured:
            return
        self.counts[record.outcome] += 1
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "requested_tokens"):
            self.counts[name] += getattr(record, name)
        if record.outcome == "failed":
            self.errors[record.error_kind] = self.errors.get(record.error_kind, 0) + 1
        if (record.outcome == "in_flight" or record.error_kind == "timeout") and record.t_end is not None:
            for name in WAITED[record.t_first is not None :]:
                self.waited[name].record(record.t_end - record.t_sched)
        for name, value in record.values().items():
            if value is not None and (record.outcome != "failed" or name == "lag"):
                self.histograms[name].record(value)
        if record.outcome == "completed":
            self.counts["good"] += slo.is_good(record.slo_values())
            self.counts["length_mismatches"] += record.completion_tokens != record.requested_tokens
            self.counts["uncounted"] += not record.counted

    def merge(self, other: Lane) -> None:
        for name, value in other.counts.items():
            self.counts[name] += value
        for mine, theirs in ((self.errors, other.errors), (self.per_second, other.per_second)):
            _add(mine, theirs)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for name, histogram in other.waited.items():
            self.waited[name].merge(histogram)

    def over(self, metric: str, limit: float) -> int:
        """Requests that have no value of ``metric`` because they had waited for more than ``limit`` seconds."""
        return self.waited[metric].above(limit) if metric in self.waited else 0

    def percentile(self, metric: str, percent: float, limit: float) -> float | None:
        """The percentile to hold against ``limit``: unfinished requests that waited longer count as ``inf``.

        ``None`` when empty."""
        known, over = self.histograms[metric], self.over(metric, limit)
        rank = math.ceil(percent / 100 * (known.count + over) - 1e-9)
        if rank > known.count:
            return math.inf
        return known.percentile(100 * rank / known.count) if known.count else None

    def share_within(self, metric: str, limit: float) -> float | None:
        """The share of requests whose ``metric`` is within ``limit`` seconds; ``None`` when nothing is known."""
        known, over = self.histograms[metric], self.over(metric, limit)
        within = (known.share_within(limit) or 0.0) * known.count
        return within / (known.count + over) if known.count + over else None

    @property
    def conserved(self) -> bool:
        """Every scheduled request has exactly one outcome."""
        c = self.counts
        return c["scheduled"] == c["completed"] + c["failed"] + c["cancelled"] + c["in_flight"]

    def to_wire(self) -> dict[str, Any]:
        return {
            "counts": self.counts,
            "errors": self.errors,
            "histograms": {name: h.to_wire() for name, h in self.histograms.items() if h.count},
            "waited": {name: h.to_wire() for name, h in self.waited.items() if h.count},
            "per_second": [list(item) for item in self.per_second.items()],
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Lane:
        lane = cls(
            dict(data["counts"]), dict(data["errors"]), per_second={int(s): int(n) for s, n in data["per_second"]}
        )
        for mine, name in ((lane.histograms, "histograms"), (lane.waited, "waited")):
            mine.update((metric, Histogram.from_wire(wire)) for metric, wire in data[name].items())
        return lane


def merged(lanes: Iterable[Lane]) -> Lane:
    total = Lane()
    for lane in lanes:
        total.merge(lane)
    return total


def _add(mine: dict[Any, int], theirs: dict[Any, int]) -> None:
    for key, value in theirs.items():
        mine[key] = mine.get(key, 0) + value
