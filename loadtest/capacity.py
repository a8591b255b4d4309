"""From the sweep of one replica to the number of replicas that a rate of arrivals needs.

A sweep finds the highest rate that one replica sustains within the limits; Little's law turns it into stream slots:
``slots = rate × mean seconds of an answer``. Independent arrivals find all slots of a pool taken with the probability
of Erlang's C formula (M/M/c; exact for exponential lengths, a little high for even ones), assuming that routers spread
streams evenly. The answer is the smallest pool in which fewer than ``risk`` of the requests wait.
``make bench-cluster ARGS="--parts capacity"`` compares it with 2, 4 and 8 replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import nesting, user_text
from loadtest import console
from loadtest.errors import EXIT_OK, LoadtestError
from loadtest.notes import short_window

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # replicas of the table
MOST = 1_000_000  # replicas


@dataclass(frozen=True, slots=True)
class ReplicaLimit:
    """What one replica sustains within the limits: requests per second, and the mean seconds of an answer then."""

    rate: float
    seconds: float

    @property
    def streams(self) -> float:
        return self.rate * self.seconds


def overload(rate: float, replicas: int, limit: ReplicaLimit) -> float:
    """The share of requests that find all slots taken."""
    return erlang_c(math.floor(replicas * limit.streams + 1e-9), rate * limit.seconds)


def erlang_c(slots: int, load: float) -> float:
    """The probability of waiting (A. K. Erlang, 1917), by the inverse of his B formula.

    ``load``: mean number of streams."""
    if load >= slots:
        return 1.0
    if load <= 0:
        return 0.0
    inverse = term = 1.0  # of B, the share of calls lost where nobody may wait: 1 + n/a + n(n − 1)/a² + …
    for slot in range(slots, 0, -1):
        term *= slot / load
        inverse += term
        if inverse > 1e12:
            return 0.0
        if term < 1e-16 * inverse:  # and falls from here on: a pool of a million takes thousands of terms
            break
    return 1 / (inverse * (1 - load / slots) + load / slots)


def replicas_for(rate: float, limit: ReplicaLimit, risk: float) -> int:
    low, high = 0, 1
    while overload(rate, high, limit) > risk:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if overload(rate, middle, limit) > risk else (low, middle)
    return high


def rate_of(replicas: int, limit: ReplicaLimit, risk: float) -> float:
    """The highest rate that ``replicas`` sustain, in requests per second."""
    low, high = 0.0, replicas * limit.rate
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if overload(middle, replicas, limit) <= risk else (low, middle)
    return low


def limit_of(path: Path) -> tuple[ReplicaLimit, str, list[str]]:
    """The replica's limit, the sweep's SLO, and notes of what makes the limit doubtful.

    Raises ``LoadtestError`` unless it is a sweep that met its limits."""
    try:
        data: dict[str, Any] = nesting.loads(user_text.read(path))
        slo = str(data["slo"])
        limits = [(_number(step["rate"]), step) for step in data["steps"]]
        valid = [step for _, step in limits if step.get("verdict", {}).get("state") != "invalid"]
        met = [
            ReplicaLimit(rate, _number(step["total"]["latency"]["e2e"]["mean"])) for rate, step in limits if step["met"]
        ]
        _, lowest = min(limits, key=lambda limit: limit[0])
        short = short_window(lowest["plan"]["duration"], lowest["total"]["latency"]["e2e"]["p50"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadtestError(
            f"capacity: {path} is not a sweep ({error}): run `make loadtest-sweep SLO=…` against one replica first"
        ) from None
    if not valid:
        raise LoadtestError(f"capacity: no run of {path} was valid: repeat the sweep, or name another with SWEEP=")
    if not met:
        raise LoadtestError(f"capacity: no rate of {path} met {slo}: one replica alone is too slow for it")
    best = max(met, key=lambda limit: limit.rate)
    ended = "" if data.get("complete", True) else "it ended before it had found the limit"
    untried = "no higher rate was tried in it" if best.rate == max(rate for rate, _ in limits) else ""
    more = [f"{doubt}: one replica may take more, and fewer may do" for doubt in [ended or untried] if doubt]
    return best, slo, more + [f"in that sweep {short}, and sweep again"] * bool(short)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} where a number above 0 belongs")
    return value


def newest(reports: Path) -> Path:
    found = sorted(reports.glob("sweep-*/sweep.json"))
    if not found:
        raise LoadtestError(f"capacity: no sweep in {reports}/: run `make loadtest-sweep SLO=ttft=500ms` first")
    return found[-1]


def capacity(rate: float, sweep: str, risk: float) -> int:
    path = Path(sweep) if sweep else newest(Path("reports"))
    path = path / "sweep.json" if path.is_dir() else path
    limit, slo, notes = limit_of(path)
    if rate > MOST * limit.rate:
        raise LoadtestError(
            f"capacity: {rate:g} requests/s take over {MOST:,} replicas of {limit.rate:g}: give a smaller RATE"
        )
    needed = replicas_for(rate, limit, risk)
    busy = rate * limit.seconds / (needed * limit.streams)
    console.show(
        f"{path}: one replica takes {limit.rate:g} requests/s within {slo}, {limit.streams:.1f} streams of "
        f"{limit.seconds:.2f} s\n"
        f"{rate:g} requests/s: {needed} {'replica' if needed == 1 else 'replicas'}, {busy:.0%} busy on average, "
        f"{overload(rate, needed, limit):.2%} of the requests wait (at most {risk:.2%}); "
        "one more to roll or lose one\n\n"
        f"{'replicas':>10s}{'requests/s':>12s}{'each':>8s}"
    )
    for count in STEPS:
        most = rate_of(count, limit, risk)
        console.show(f"{count:10d}{most:12.1f}{most / count:8.2f}")
    for note in notes:
        console.show(f"note: {note}")
    return EXIT_OK
