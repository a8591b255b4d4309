"""Open-loop schedules: drawn once from the seed, before the first request, so that no slow server can bend them.

A schedule is a unit-rate renewal process bent by a rate profile (time rescaling): the k-th arrival is at
``t = L⁻¹(s_k)`` where ``s_k`` is a sum of k independent gaps of mean 1 and ``L(t)`` is the integral of the rate.
``constant`` has gaps of exactly 1, ``poisson`` exponential ones, ``gamma:K`` gamma ones of shape K (K < 1 is burstier
than Poisson, coefficient of variation 1/√K). ``ramp`` and ``staircase:N`` are Poisson under a rate that grows from 0 to
RATE, smoothly or in N equal steps. ``burst:N`` sends N requests at the same instant, RATE per second on average.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtest.errors import LoadtestError

KINDS = ("closed", "constant", "poisson", "gamma", "ramp", "staircase", "burst", "trace")
HELP = "closed, constant, poisson, gamma:SHAPE, ramp, staircase:STEPS, burst:SIZE or trace"
DEFAULT_PARAMETER = {"gamma": 0.25, "staircase": 5.0, "burst": 16.0}
MAX_ARRIVALS = 5_000_000  # a schedule is kept in memory: 8 bytes each on every worker


@dataclass(frozen=True, slots=True)
class Arrivals:
    """``closed`` and ``trace`` have no schedule of their own: users, or the trace's timestamps, take its place."""

    kind: str
    parameter: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.kind != "closed"

    def __str__(self) -> str:
        return f"{self.kind}:{self.parameter:g}" if self.kind in DEFAULT_PARAMETER else self.kind


def parse_arrivals(text: str) -> Arrivals:
    """``gamma:0.25`` → Arrivals. Raises ``LoadtestError``."""
    kind, _, raw = text.strip().partition(":")
    if kind not in KINDS:
        raise LoadtestError(f"arrivals: no arrival process {kind!r}: write {HELP}")
    if kind not in DEFAULT_PARAMETER:
        if raw:
            raise LoadtestError(f"arrivals: {kind} takes no parameter, got {raw!r}: write {HELP}")
        return Arrivals(kind)
    try:
        parameter = float(raw) if raw else DEFAULT_PARAMETER[kind]
    except ValueError:
        raise LoadtestError(f"arrivals: {raw!r} is not a number: write {HELP}") from None
    whole = kind in ("staircase", "burst")
    if not 0 < parameter <= 10_000 or (whole and parameter != int(parameter)):
        raise LoadtestError(f"arrivals: {kind}:{raw} needs a {'whole ' * whole}number above 0 (at most 10000)")
    return Arrivals(kind, parameter)


def schedule(arrivals: Arrivals, rate: float, duration: float, seed: int, most: int | None = None) -> tuple[float, ...]:
    """All arrival times in seconds, ascending, within [0, duration), or the first ``most`` of them.

    The same arguments give the same schedule."""
    if min(rate * duration, most or math.inf) > MAX_ARRIVALS:
        raise LoadtestError(f"rate: {rate:g}/s for {duration:g} s is over {MAX_ARRIVALS} requests: lower one of them")
    rng = random.Random(f"arrivals:{seed}")
    group = int(arrivals.parameter) if arrivals.kind == "burst" else 1
    inverse = _inverse(arrivals, rate / group, duration)
    times: list[float] = []
    for position in _positions(arrivals, rng):
        t = inverse(position)
        if t >= duration or (most and len(times) >= most):
            return tuple(times[:most])
        times.extend([t] * group)
    raise AssertionError("an endless process ended")


def shard(times: tuple[float, ...], index: int, count: int) -> list[tuple[int, float]]:
    """What worker ``index`` of ``count`` sends: every count-th arrival as (number in the whole schedule, time)."""
    return [(number, times[number]) for number in range(index, len(times), count)]


def _positions(arrivals: Arrivals, rng: random.Random) -> Iterator[float]:
    """Arrival positions of the unit-rate process; the deterministic ones start at 0 so that a run starts at once."""
    if arrivals.kind in ("constant", "burst"):
        k = 0
        while True:
            yield float(k)
            k += 1
    shape = arrivals.parameter if arrivals.kind == "gamma" else 1.0
    total = 0.0
    while True:
        total += rng.gammavariate(shape, 1.0 / shape)
        yield total


def _inverse(arrivals: Arrivals, rate: float, duration: float) -> Callable[[float], float]:
    """The inverse of the cumulated rate. Past ``duration`` any value >= duration will do."""
    if arrivals.kind == "ramp":  # rate(t) = rate·t/duration, so L(t) = rate·t²/(2·duration)
        return lambda s: math.sqrt(2.0 * s * duration / rate)
    if arrivals.kind != "staircase":
        return lambda s: s / rate
    steps = int(arrivals.parameter)
    length = duration / steps
    starts = [rate * length * k * (k + 1) / 2 / steps for k in range(steps + 1)]  # L at the start of step k

    def staircase(s: float) -> float:
        step = next((k for k in range(steps) if s < starts[k + 1]), steps - 1)
        return step * length + (s - starts[step]) / (rate * (step + 1) / steps)

    return staircase
