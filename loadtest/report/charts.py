"""Which charts a run is shown in."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.aggregate import Lane
from loadtest.record import Record
from loadtest.report.svg import Chart, Series
from loadtest.stats import quantile, thin
from loadtest.summary import Run, of_another

WINDOWS = 12  # pieces of the run in "TTFT against rate"
DOTS = 1500
PER_OCTAVE = 256  # points of a distribution between a value and its double
TRIMMED = 0.005  # the lowest half per cent of a distribution: a few gaps near 0 would take most of a logarithmic axis


def charts_of(run: Run) -> list[Chart]:
    return [
        _cdf("Time to first token", run, ("ttft_sched", "ttft")),
        _cdf("ITL and TPOT", run, ("itl", "tpot")),
        _cdf("End to end", run, ("e2e_sched", "e2e")),
        _ttft_over_time(run),
        _tokens(run),
        _streams(run),
        _against_rate(run),
        _kv(run),
    ]


def _cdf(title: str, run: Run, metrics: Sequence[str]) -> Chart:
    series = [
        Series(
            _label(run, lane, metric),
            [(v * 1e3, share) for v, share in lanes.histograms[metric].cdf(PER_OCTAVE) if share > TRIMMED],
            "steps",
            dashed=metric in ("ttft", "e2e"),  # in a closed loop they lie on those from the schedule
        )
        for lane, lanes in run.lanes.items()
        for metric in metrics
        if lanes.histograms[metric].count
    ]
    return Chart(title, "ms (log)", "requests at or below", series, log_x=True, y_max=1.0)


def _label(run: Run, lane: str, metric: str) -> str:
    short = {"ttft_sched": "from schedule", "e2e_sched": "from schedule", "ttft": "from send", "e2e": "from send"}
    name = short.get(metric, metric.upper())
    return f"{lane} {name}" if len(run.lanes) > 1 else name


def _ttft_over_time(run: Run) -> Chart:
    series = []
    for lane in run.lanes:
        points = [
            (r.t_sched, v * 1e3)
            for r in run.records
            if r.transport == lane and (v := r.values()["ttft_sched"]) is not None
        ]
        series.append(Series(lane, thin(points, DOTS), "dots"))
    failed = [(r.t_sched, 0.0) for r in run.records if r.outcome == "failed"]
    series += [Series("failed", thin(failed, DOTS), "dots")] if failed else []
    return Chart("TTFT of each request", "scheduled at, s", "ms", series, lines=_window(run))


def _window(run: Run) -> list[tuple[str, float, str]]:
    start = run.plan.warmup
    return [("x", start, "measured from here")] * bool(start) + [("x", start + run.measured_s, "end")]


def _tokens(run: Run) -> Chart:
    def seconds(lane: Lane) -> list[tuple[float, float]]:
        last = max(lane.per_second, default=0)
        return [(float(s), float(lane.per_second.get(s, 0))) for s in range(last + 1)]

    series = [Series(name, seconds(lane), "steps") for name, lane in run.lanes.items() if lane.per_second]
    return Chart("Output tokens per second", "s", "tokens/s", series, lines=_window(run))


def _streams(run: Run) -> Chart:
    series = [Series("open streams (client)", run.running, "steps")] if run.records else []
    points = {} if of_another(run) else run.server.points
    series += [
        Series(f"{name} (server)", points[name], dashed=True) for name in ("running", "waiting") if points.get(name)
    ]
    return Chart("Running streams, and the server's queue", "s", "streams", series, lines=_window(run))


def _kv(run: Run) -> Chart:
    points = [] if of_another(run) else run.server.points.get("kv", [])
    series = [Series("KV cache in use", [(t, v * 100) for t, v in points], "steps")] if points else []
    return Chart("KV cache in use (server)", "s", "%", series, y_max=100.0)


def _against_rate(run: Run) -> Chart:
    """One dot per window: what arrived, and how long it waited. A sweep or a ramp fills the x axis."""
    p50, p95 = [], []
    measured, start = [r for r in run.records if r.measured], run.plan.warmup
    for rate, values in rate_windows(measured, start, start + run.measured_s):
        p50.append((rate, quantile(values, 50) * 1e3))
        p95.append((rate, quantile(values, 95) * 1e3))
    series = [Series("p50", sorted(p50), "dots"), Series("p95", sorted(p95), "dots")] if p50 else []
    return Chart("TTFT against rate (the run in twelve windows)", "arrivals per second", "ms", series)


def rate_windows(records: Sequence[Record], start: float, end: float) -> list[tuple[float, list[float]]]:
    """(arrivals per second, TTFTs from schedule) of each window that has some."""
    width = (end - start) / WINDOWS
    if not width:
        return []
    windows: list[list[Record]] = [[] for _ in range(WINDOWS)]
    for record in records:
        windows[min(max(int((record.t_sched - start) / width), 0), WINDOWS - 1)].append(record)
    found = []
    for window in windows:
        values = [v for r in window if (v := r.values()["ttft_sched"]) is not None]
        found += [(len(window) / width, values)] if values else []
    return found
