"""Figures of many requests, mergeable over workers: counts, tokens, histograms and a per-second timeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from loadtest.histogram import Histogram
from loadtest.record import METRICS, Record
from loadtest.slo import Slo

COUNTERS = (
    "scheduled", "completed", "failed", "cancelled", "in_flight", "good", "warmup",
    "messages", "window_messages", "window_tokens", "window_completed", "window_good",
    "prompt_tokens", "completion_tokens", "cached_tokens", "requested_tokens", "length_mismatches",
)  # fmt: skip


@dataclass(slots=True)
class Lane:
    """All requests over one transport. ``window_*`` count what arrived inside the measured window."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    errors: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in METRICS})
    per_second: dict[int, int] = field(default_factory=dict)  # second of the run -> tokens received

    def scheduled(self, measured: bool) -> None:
        self.counts["scheduled" if measured else "warmup"] += 1

    def message(self, second: int, tokens: int, in_window: bool) -> None:
        self.per_second[second] = self.per_second.get(second, 0) + tokens
        self.counts["messages"] += 1
        if in_window:
            self.counts["window_messages"] += 1
            self.counts["window_tokens"] += tokens

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
        for name, value in record.values().items():
            if value is not None and (record.outcome != "failed" or name == "lag"):
                self.histograms[name].record(value)
        if record.outcome == "completed":
            self.counts["good"] += slo.is_good(record.slo_values())
            self.counts["length_mismatches"] += record.completion_tokens != record.requested_tokens

    def merge(self, other: Lane) -> None:
        for name, value in other.counts.items():
            self.counts[name] += value
        for mine, theirs in ((self.errors, other.errors), (self.per_second, other.per_second)):
            _add(mine, theirs)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)

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
            "per_second": [list(item) for item in self.per_second.items()],
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Lane:
        lane = cls(
            dict(data["counts"]), dict(data["errors"]), per_second={int(s): int(n) for s, n in data["per_second"]}
        )
        for name, wire in data["histograms"].items():
            lane.histograms[name] = Histogram.from_wire(wire)
        return lane


def merged(lanes: Iterable[Lane]) -> Lane:
    total = Lane()
    for lane in lanes:
        total.merge(lane)
    return total


def _add(mine: dict[Any, int], theirs: dict[Any, int]) -> None:
    for key, value in theirs.items():
        mine[key] = mine.get(key, 0) + value
