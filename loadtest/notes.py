"""What a reader of the figures must know about them: sentences that come with the verdict and change nothing in it."""

from __future__ import annotations

from loadtest.aggregate import Lane
from loadtest.plan import RunPlan
from loadtest.stats import is_longest

FEW = "too few: with so few requests the difference proves nothing, whatever its interval"  # of two sides
PERCENTILES = (50, 75, 90, 95, 99, 99.9)  # of the report
SHARE = 0.05  # of the answers; below that it says nothing about the server
SHORT, ENOUGH = 2, 5  # answers one after the other: with fewer the window is short; so many are advised


def longest(count: int, percent: float, what: str = "requests") -> str:
    """The remark beside a percentile of too few values; "" beside any other."""
    return f"p{percent:g} of {count} {what}: the longest one" if is_longest(count, percent) else ""


def short_window(duration: float | None, answer: float | None) -> str:
    """The remark on a window that ends before the answers which start in it do; ``answer``: seconds, the median.

    Without a warm-up fewer than half of them end inside, and streams grow in number because none has ended yet."""
    if duration is None or answer is None or duration >= SHORT * answer:
        return ""
    return (
        f"a window of {duration:g} s is short for answers of {answer:.1f} s, too few of which end inside it to tell "
        f"the throughput or saturation: give DURATION={max(1, round(ENOUGH * answer))}s or more"
    )


def _few(lanes: dict[str, Lane]) -> list[str]:
    found = []
    for name, lane in lanes.items():
        count = lane.histograms["ttft_sched"].count
        if marked := ", ".join(f"p{q:g}" for q in PERCENTILES if is_longest(count, q)):
            found.append(f"{marked} of {count} {name} requests: the longest one (marked *)")
    return found


def _trace(plan: RunPlan) -> list[str]:
    """That the window cuts the trace off, or goes on without it."""
    times, speed = plan.load.times, plan.rate or 1.0
    if plan.process.kind != "trace":
        return []
    if late := sum(t / speed >= plan.duration for t in times):
        after = f"{late} of its {len(times)} requests come after {plan.duration:g} s"
        return [f"the trace goes on: {after}; a longer DURATION sends them"]
    if plan.requests is None and (last := times[-1] / speed) < (1 - SHARE) * plan.duration:
        return [
            f"the trace ends after {last:.3g} s, and requests/s and tokens/s are means over {plan.duration:g} s: "
            f"REQUESTS={len(times)} without DURATION ends the window with its last answer"
        ]
    return []


def notes(total: Lane, plan: RunPlan, lanes: dict[str, Lane]) -> list[str]:
    """From a run's figures, in the order in which they matter."""
    c = total.counts
    done, found = c["completed"], []
    if plan.requests is None and (short := short_window(plan.duration, total.histograms["e2e"].percentile(50))):
        found.append(short)
    if waiting := total.waited["e2e_sched"].count:
        found.append(
            f"{waiting} of {c['scheduled']} requests had not ended when the run did, or gave up: the table's E2E "
            "leaves them out, and they miss each limit that they had outlasted"
        )
    if plan.requests is not None and c["scheduled"] < plan.requests:
        found.append(f"{c['scheduled']} of {plan.requests} requests were sent: the run ended first")
    found += _trace(plan)
    whole = done - total.histograms["tpot"].count
    if plan.stream and done and c["completion_tokens"] > 2 * done and whole > SHARE * done:
        found.append(
            f"{whole} of {done} answers came in one piece and have no TPOT: something on the way may hold the stream "
            "back"
        )
    if c["uncounted"]:
        found.append(f"the server did not count the tokens of {c['uncounted']} answers: each message counts as one")
    if (wrong := c["length_mismatches"]) > SHARE * done and not plan.respect_eos:
        found.append(f"{wrong} of {done} answers were not as long as asked for: the server may not know ignore_eos")
    return found + _few(lanes)
