"""Was the generator fit to measure, and did the server pass? Decided from figures alone.

INVALID comes first: a run whose generator was late, by its own work or because its machine was full, says nothing
about the server, good or bad.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadtest.aggregate import Lane
from loadtest.errors import EXIT_INVALID, EXIT_LIMITS_MISSED, EXIT_OK
from loadtest.notes import longest
from loadtest.slo import Slo, metric_of

# A stall of the generator's event loop, or a late send, adds itself to every latency. 20 ms is the smallest TTFT worth
# measuring over a network; where TTFT is longer, 5 % of its median may be the generator's.
LAG_FLOOR_S = 0.020
LAG_SHARE_OF_TTFT = 0.05
CPU_LIMIT = 0.90  # of one core: a Python process has no more, and queues before it gets there


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """One generator process over the run; ``OwnLoad.figures`` says what its figures are. Lags are p99 in seconds."""

    worker: int
    cpu: float
    loop_lag_p99: float
    messages: int
    cpu_s: float = 0.0
    own_lag_p99: float = 0.0
    queued: float = 0.0
    machine: float = 0.0
    stood_s: float = 0.0
    finished: bool = True

    @property
    def kept_waiting(self) -> bool:
        """Did other things than its own work make its loop late? The larger part decides."""
        return 2 * self.own_lag_p99 < self.loop_lag_p99


@dataclass(frozen=True, slots=True)
class Verdict:
    """``state`` is pass, fail or invalid; ``reasons`` are whole sentences. ``cause`` of invalid: generator, machine
    (the generator's), stop (of the generator) or counts."""

    state: str
    reasons: tuple[str, ...]
    cause: str = ""

    @property
    def exit_code(self) -> int:
        return {"pass": EXIT_OK, "fail": EXIT_LIMITS_MISSED, "invalid": EXIT_INVALID}[self.state]


def judge(
    total: Lane, slo: Slo, workers: list[WorkerHealth], planned: int | None, *, interrupted: bool = False
) -> Verdict:
    """``planned`` is the number of measured arrivals of a schedule that ran to its end, else None."""
    wrong, (cause, late) = _counts(total, workers, planned, interrupted), _generator(total, workers)
    if wrong or late:
        return Verdict("invalid", (*wrong, *late), cause or "counts")
    missed = _missed(total, slo)
    if interrupted:
        missed.insert(0, "interrupted: the window is not complete")
    elif unfinished(total, slo):
        c = total.counts
        missed.insert(
            0,
            f"{c['in_flight']} of {c['scheduled']} requests had not ended when the drain did (limit {slo.errors:.1%}): "
            "the server hangs, or --drain is too short",
        )
    return Verdict("fail" if missed else "pass", tuple(missed))


def _counts(total: Lane, workers: list[WorkerHealth], planned: int | None, interrupted: bool) -> list[str]:
    c = total.counts
    reasons = [f"worker {w.worker} was lost, its figures are incomplete" for w in workers if not w.finished]
    if not total.conserved:
        reasons.append(
            f"counts do not add up: {c['scheduled']} scheduled, {c['completed']} completed, {c['failed']} failed, "
            f"{c['cancelled']} cancelled, {c['in_flight']} in flight"
        )
    if planned is not None and planned != c["scheduled"]:
        reasons.append(f"{c['scheduled']} of {planned} planned requests were sent: a worker was lost or too slow")
    if c["scheduled"] == 0 and not interrupted:
        reasons.append("no request was measured: raise the duration or the rate")
    return reasons


def _generator(total: Lane, workers: list[WorkerHealth]) -> tuple[str, list[str]]:
    """The cause and what shows it; ("", []) of a generator that was on time."""
    stopped = [
        f"worker {w.worker} stood still for {w.stood_s:.1f} s (Ctrl-Z, a frozen container or machine): measure again"
        for w in workers
        if w.stood_s
    ]
    if stopped:  # and everything else that was late was late by this
        return "stop", stopped
    reasons = []
    ttft = total.histograms["ttft"].percentile(50) or 0.0
    bound = max(LAG_FLOOR_S, LAG_SHARE_OF_TTFT * ttft)
    lags = total.histograms["lag"]
    # p99, and never the single latest send: in a short run it would be the p99 all by itself
    lag = lags.percentile(min(99.0, 100 * (1 - 1 / lags.count))) if lags.count > 1 else None
    if lag is not None and lag > bound:
        reasons.append(f"schedule lag p99 {lag * 1e3:.1f} ms is over {bound * 1e3:.0f} ms")
    for w in workers:
        if w.cpu > CPU_LIMIT:
            reasons.append(f"worker {w.worker} used {w.cpu:.0%} of a core (limit {CPU_LIMIT:.0%})")
        if w.loop_lag_p99 > bound:
            reasons.append(
                f"worker {w.worker}'s event loop was late by {w.loop_lag_p99 * 1e3:.1f} ms at p99 "
                f"(limit {bound * 1e3:.0f} ms), by its own work alone {w.own_lag_p99 * 1e3:.1f} ms"
            )
    if not reasons:
        return "", []
    late = [w for w in workers if w.loop_lag_p99 > bound / 2]  # sends may be late where the loop is not quite
    if not late or any(w.cpu > CPU_LIMIT or not w.kept_waiting for w in late):
        return "generator", [*reasons, "the generator was the bottleneck: add workers or lower the rate"]
    w = max(late, key=lambda w: w.loop_lag_p99)
    return "machine", [
        *reasons,
        f"the machine was the bottleneck ({w.machine:.0%} busy; worker {w.worker} used {w.cpu:.0%} of a core and "
        f"waited for one {w.queued:.0%} of the time): give the generator a machine of its own, or priority here: "
        "`chrt -r 5 make loadtest …` (as root, or where `ulimit -r` is 5 or more)",
    ]


def unfinished(total: Lane, slo: Slo) -> bool:
    """Are the requests that had not ended after the drain too many to pass, with those that failed?"""
    c = total.counts
    return c["in_flight"] > 0 and c["failed"] + c["in_flight"] > slo.errors * c["scheduled"]


def latency(value: float | None) -> str:
    """``inf`` stands for requests that had waited longer than their limit when the run ended."""
    if value is None:
        return "not measured"
    return f"{value * 1e3:.1f} ms" if value < math.inf else "not reached"


def few(total: Lane, name: str, percent: float, limit: float) -> str:
    """The remark on a percentile that is the longest of too few requests, those that outlasted ``limit`` included."""
    metric = metric_of(name)
    count = total.histograms[metric].count + total.over(metric, limit)
    return longest(count, percent, "gaps" if name == "itl" else "requests")


def _missed(total: Lane, slo: Slo) -> list[str]:
    c = total.counts
    reasons = []
    if c["failed"] > slo.errors * c["scheduled"]:
        reasons.append(f"{c['failed']} of {c['scheduled']} requests failed (limit {slo.errors:.1%})")
    # A request still in flight when the drain ended did not meet a latency limit; one that left on purpose has none.
    judged = c["scheduled"] - c["cancelled"]
    if slo.limits and judged and c["good"] < slo.good * judged:
        reasons.append(f"{c['good'] / judged:.1%} of requests met every per-request limit (wanted {slo.good:.1%})")
    for (name, percent), limit in slo.percentiles.items():
        value = total.percentile(metric_of(name), percent, limit)
        if value is None or value > limit:
            reason = f"{name} p{percent:g} is {latency(value)} (limit {limit * 1e3:g} ms)"
            reasons.append("; ".join(filter(None, (reason, few(total, name, percent, limit)))))
    return reasons
