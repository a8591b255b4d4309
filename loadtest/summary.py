"""From a run to ``summary.json``: every figure of the report, with its plan and environment, under a schema version."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.aggregate import Lane, merged
from loadtest.environment import describe
from loadtest.notes import PERCENTILES, notes
from loadtest.plan import WEEK, RunPlan
from loadtest.record import FORMULAS, Record
from loadtest.scrape import ServerSeries
from loadtest.slo import Slo, metric_of
from loadtest.stats import Interval, bootstrap_difference, needed, percentile_of_rows, running_streams, slope
from loadtest.verdict import WorkerHealth, few, judge, latency

SCHEMA = "qwen-triton/loadtest-summary/1"
# In-flight streams that grow faster than 5 % of the arrival rate: the server does not keep up.
SATURATION_SHARE = 0.05


@dataclass
class Run:
    """What the master collected. ``workers`` has an entry per worker, None until its first report."""

    plan: RunPlan
    target: dict[str, Any]
    epoch: float  # second 0 as ``time.time()``, a clock that all workers share
    workers: dict[int, WorkerHealth | None]
    server: ServerSeries
    lanes: dict[str, Lane] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    complete: bool = False
    closed: bool = False
    ended: float = 0.0  # the second of the last report
    zero: float = field(default_factory=time.monotonic)  # second 0 as ``time.monotonic()``, which nobody can set

    @property
    def now(self) -> float:
        """Seconds since second 0."""
        return time.monotonic() - self.zero

    @property
    def measured_s(self) -> float:
        """Seconds of the window that were measured: all of it, unless the run was interrupted; of a number of requests
        until the last of them had ended."""
        if self.plan.requests is not None:
            ends = (r.t_end for r in self.records if r.measured and r.t_end is not None)
            return max(ends, default=self.plan.warmup) - self.plan.warmup
        if not self.interrupted:
            return self.plan.duration
        return min(max(self.ended - self.plan.warmup, 0.0), self.plan.duration)

    @property
    def running(self) -> list[tuple[float, float]]:
        """(second, open streams), four times a second, from the requests' own times."""
        spans = [(r.t_send, r.t_end) for r in self.records if r.t_send is not None and r.t_end is not None]
        return running_streams(spans, 0.25, max((stop for _, stop in spans), default=0.0))


def summarize(run: Run) -> dict[str, Any]:
    """The content of summary.json. Times in seconds, rates per second."""
    plan, total = run.plan, merged(run.lanes.values())
    workers = [w or WorkerHealth(i, 0.0, 0.0, 0, finished=False) for i, w in sorted(run.workers.items())]
    planned = plan.planned if plan.process.is_open and run.complete else None
    verdict = judge(total, plan.limits, workers, planned, interrupted=run.interrupted)
    return {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(run.epoch)),
        "interrupted": run.interrupted,
        "plan": plan.to_dict()
        | {"arrivals": str(plan.process), "loop": "open" if plan.process.is_open else "closed"}
        | ({"duration": None} if plan.requests is not None and plan.duration == WEEK else {}),
        "target": run.target,
        "environment": describe(),
        "limits": limits(total, plan.limits, judged=verdict.state != "invalid"),
        "verdict": dataclasses.asdict(verdict) | {"exit_code": verdict.exit_code},
        "notes": notes(total, plan, run.lanes) + _unmetered(run),
        "error_examples": _examples(run.records),
        "measured_s": run.measured_s,
        "total": lane_figures(total, run.measured_s, plan.limits),
        "lanes": {
            name: lane_figures(lane, run.measured_s, plan.limits)
            | {"error_examples": _examples([r for r in run.records if r.transport == name])}
            for name, lane in run.lanes.items()
        },
        "gateway_cost": _gateway_cost(run.records) if len(plan.lanes) == 2 else None,
        "saturation": saturation(run),
        "generator": _generator(workers, total),
        "server": _server(run),
        "formulas": FORMULAS,
    }


def _examples(records: list[Record]) -> dict[str, str]:
    """kind → what the first failure of that kind said."""
    failed = [r for r in records if r.measured and r.outcome == "failed"]
    return {r.error_kind: r.error for r in sorted(failed, key=lambda r: -r.t_sched)}


def limits(total: Lane, slo: Slo, *, judged: bool = True) -> list[dict[str, Any]]:
    """Each limit with what was measured, for people: a per-request limit as the share of values within it.

    ``met`` is None where the run cannot be judged; ``note`` warns of a percentile of too few requests."""
    rows: list[dict[str, Any]] = []
    for name, limit in slo.limits.items():
        within = total.share_within(metric_of(name), limit)
        shown = "-" if within is None else f"{within:.1%}"
        text = f"{name.upper()} ≤ {limit * 1e3:g} ms ({slo.good:.0%})"
        rows.append({"limit": text, "measured": shown, "met": within is not None and within >= slo.good})
    for (name, percent), limit in slo.percentiles.items():
        value = total.percentile(metric_of(name), percent, limit)
        text = f"{name.upper()} p{percent:g} ≤ {limit * 1e3:g} ms"
        row = {"limit": text, "measured": latency(value), "met": value is not None and value <= limit}
        rows.append(row | ({"note": note} if (note := few(total, name, percent, limit)) else {}))
    if rows:
        lost, scheduled = total.counts["failed"] + total.counts["in_flight"], total.counts["scheduled"]
        text = f"errors ≤ {slo.errors:.1%}"
        rows.append({"limit": text, "measured": f"{lost} / {scheduled}", "met": lost <= slo.errors * scheduled})
    return rows if judged else [row | {"met": None} for row in rows]


def lane_figures(lane: Lane, measured_s: float, slo: Slo) -> dict[str, Any]:
    """``measured_s``: seconds of the window; 0 when the run ended during its warm-up.

    Goodput is what ``--goodput`` of vLLM and AIPerf counts: requests within every limit on a single request. Without
    such a limit there is none: ``goodput_per_s`` is None and no count speaks of good requests."""

    def per_second(name: str) -> float:
        return lane.counts[name] / measured_s if measured_s else 0.0

    c = lane.counts
    return {
        "counts": {name: n for name, n in c.items() if slo.limits or name not in ("good", "window_good")},
        "errors": dict(lane.errors),
        "requests_per_s": per_second("window_completed"),
        "tokens_per_s": per_second("window_tokens"),
        "goodput_per_s": per_second("window_good") if slo.limits else None,
        "tokens_per_message": _ratio(c["window_tokens"], c["window_messages"]),
        "latency": {name: latency_figures(h) for name, h in lane.histograms.items()},
    }


def latency_figures(histogram: Any) -> dict[str, Any]:
    some = histogram.count > 0
    figures = {"count": histogram.count, "mean": histogram.mean}
    figures |= {"min": histogram.minimum if some else None, "max": histogram.maximum if some else None}
    return figures | {f"p{q:g}": histogram.percentile(q) for q in PERCENTILES}


def saturation(run: Run) -> dict[str, Any]:
    """Do streams pile up? Their growth per second over the window, beside the arrival rate.

    In a steady state the number in the system scatters like its square root (M/G/∞); growth within three of those over
    the window is chance."""
    start, end = run.plan.warmup, run.plan.warmup + run.measured_s
    if run.plan.requests is not None:  # after the last arrival streams only end
        end = max((r.t_sched for r in run.records if r.measured), default=end)
    points = [(t, n) for t, n in run.running if start + 0.25 * (end - start) <= t <= end]
    growth, _ = slope(points)
    chance = 3 * math.sqrt(max(1.0, sum(n for _, n in points) / max(1, len(points))))
    rate = sum(r.measured for r in run.records) / (end - start) if end > start else 0.0
    steady_profile = run.plan.process.kind in ("constant", "poisson", "gamma")
    saturated = steady_profile and growth > SATURATION_SHARE * rate and growth * 0.75 * (end - start) > chance
    return {"saturated": bool(saturated), "growth_per_s": growth, "arrivals_per_s": rate}


def _gateway_cost(records: list[Record]) -> dict[str, Any]:
    """SSE minus gRPC at the median and p95, in seconds, with 95 % intervals: what the gateway adds.

    ``few``: one side has fewer requests than the ``needed``, and the difference proves nothing."""
    cost: dict[str, Any] = {}
    for name in ("ttft", "tpot"):  # an answer's time depends on its length, and the two lanes have answers of their own
        grpc, sse = (
            [v for r in records if r.measured and r.transport == lane and (v := r.values()[name]) is not None]
            for lane in ("grpc", "sse")
        )
        if len(grpc) > 1 and len(sse) > 1:
            cost[name] = {
                f"p{q}": interval(bootstrap_difference(grpc, sse, percentile_of_rows(q)))
                | {"grpc": len(grpc), "sse": len(sse), "needed": needed(q), "few": min(len(grpc), len(sse)) < needed(q)}
                for q in (50, 95)
            }
    return cost


def interval(found: Interval) -> dict[str, float]:
    return {"difference": found.value, "low": found.low, "high": found.high}


def _generator(workers: list[WorkerHealth], total: Lane) -> dict[str, Any]:
    messages, cpu = sum(w.messages for w in workers), sum(w.cpu_s for w in workers)
    return {
        "workers": [dataclasses.asdict(w) for w in workers],
        "cpu_us_per_message": _ratio(cpu * 1e6, messages),
        "schedule_lag_p99": total.histograms["lag"].percentile(99),
    }


def _server(run: Run) -> dict[str, Any] | None:
    if not (run.server.points or run.server.freed) or of_another(run):
        return None
    peaks = {name: float(np.max([v for _, v in points])) for name, points in run.server.points.items()}
    return {"url": run.server.url, "peak": peaks, "streams_freed": run.server.freed_during_run, "we_left": _left(run)}


def of_another(run: Run) -> int:
    """How many streams of ours ended when the server with the metrics ended fewer than half of them; 0 of the right
    one. Not none, because our own servers ask themselves for a token every ten seconds."""
    seen, ours = run.server.ended_during_run, sum(r.outcome == "completed" for r in run.records)
    return ours if run.complete and seen is not None and 2 * seen < ours else 0


def _unmetered(run: Run) -> list[str]:
    """Triton always has metrics; where they were not found, the port is another server's, or nobody's."""
    if streams := of_another(run):
        ended = f"it ended {run.server.ended_during_run} streams, we {streams}"
        why = f"{run.server.url} is another's, or one of several: {ended}"
        return [f"no queue and KV figures of the server: {why}: set METRICS_PORT"]
    found = run.server.points or run.server.freed or not run.server.error
    if found or "grpc" not in run.plan.lanes:
        return []
    return [f"no queue and KV figures of the server: {run.server.url} gave none ({run.server.error}): set METRICS_PORT"]


def _left(run: Run) -> int:
    return sum(r.outcome == "cancelled" for r in run.records)


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
