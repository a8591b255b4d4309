"""One timed stream, and what a run of many of them comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.stats import percentiles_ms

GOOD_TTFT_S, GOOD_TPOT_S = 0.5, 0.05
SAMPLING: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.0},
    "defaults": {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},  # Qwen2.5's own
}


@dataclass(slots=True)
class TimedStream:
    """Times are ``time.perf_counter`` seconds, one clock for all processes; ``gaps`` lie between messages."""

    start: float
    first: float
    last: float
    tokens: int
    gaps: list[float] = field(default_factory=list)
    error: str = ""


def summarize(records: Sequence[TimedStream]) -> dict[str, Any]:
    """Tokens/s over the whole run (first request sent to last token), and percentiles in ms.

    TTFT: request sent to first token. TPOT: (last - first token) / (tokens - 1) of each stream. ITL: gaps between
    messages. Goodput counts the requests within ``GOOD_TTFT_S`` and ``GOOD_TPOT_S``.
    """
    good = [r for r in records if not r.error]
    failed: dict[str, Any] = {"errors": len(records) - len(good)}
    if len(good) < len(records) or not records:
        failed["first_error"] = next((r.error for r in records if r.error), "no requests")
    if not good:
        return failed
    seconds = max(r.last for r in good) - min(r.start for r in good)
    tokens = sum(r.tokens for r in good)
    return {
        "requests": len(good),
        **failed,
        "tokens": tokens,
        "seconds": round(seconds, 4),
        "tokens_per_s": round(tokens / seconds, 1),
        "requests_per_s": round(len(good) / seconds, 2),
        "goodput_per_s": round(sum(_is_good(r) for r in good) / seconds, 2),
        "ttft_ms": percentiles_ms([r.first - r.start for r in good]),
        "tpot_ms": percentiles_ms([(r.last - r.first) / (r.tokens - 1) for r in good if r.tokens > 1]),
        "itl_ms": percentiles_ms([gap for r in good for gap in r.gaps]),
        "messages": sum(len(r.gaps) + 1 for r in good),
    }


def _is_good(record: TimedStream) -> bool:
    tpot = (record.last - record.first) / max(1, record.tokens - 1)
    return record.first - record.start <= GOOD_TTFT_S and tpot <= GOOD_TPOT_S
