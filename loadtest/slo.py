"""Limits as one line of text: ``ttft=200ms,tpot=50ms,e2e.p99=8s,good=95%,errors=1%``.

``NAME=LIMIT`` is a limit on every request: a request is *good* when it meets all of them, and goodput counts good
requests. ``NAME.pNN=LIMIT`` is a limit on a percentile of the run. ``good=SHARE`` (default 95 %) is how many requests
must be good and ``errors=SHARE`` (default 0 %) how many may fail, or not end within the drain, for the run to pass.
TTFT and E2E are counted from the *scheduled* send time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loadtest.errors import LoadtestError

NAMES = ("ttft", "e2e", "tpot", "itl")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
EXAMPLE = "ttft=200ms,tpot=50ms,e2e.p99=8s,good=95%,errors=1%"
HELP = "ttft=200ms,tpot=50ms,e2e.p99=8s and shares of requests, good= and errors="
_TIME = re.compile(r"^(\d+(?:\.\d+)?)(us|ms|s)$", re.ASCII)
_SHARE = re.compile(r"^(\d+(?:\.\d+)?)%$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slo:
    """``limits``: name → seconds, per request. ``percentiles``: (name, percent) → seconds. Shares are 0…1."""

    limits: dict[str, float]
    percentiles: dict[tuple[str, float], float]
    good: float = 0.95
    errors: float = 0.0

    def is_good(self, values: dict[str, float | None]) -> bool:
        """Whether one completed request meets every limit. A value that does not exist (TPOT of one token) passes."""
        return all((value := values.get(name)) is None or value <= limit for name, limit in self.limits.items())


def metric_of(name: str) -> str:
    """The histogram that a limit is about: TTFT and E2E count from the scheduled send."""
    return name if name in ("tpot", "itl") else f"{name}_sched"


def parse_slo(text: str) -> Slo:
    """Raises ``LoadtestError`` with the part that is wrong."""
    limits: dict[str, float] = {}
    percentiles: dict[tuple[str, float], float] = {}
    shares = {"good": 0.95, "errors": 0.0}
    seen = set[str]()
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, separator, value = (p.strip() for p in part.partition("="))
        if name in seen:
            raise LoadtestError(f"slo: {name!r} is given twice: keep one of the two")
        seen.add(name)
        base, _, percent = name.partition(".")
        if not separator:
            raise LoadtestError(f"slo: {part!r} has no '=': write e.g. {EXAMPLE}")
        if name in shares:
            shares[name] = _share(part, value)
        elif base not in NAMES:
            raise LoadtestError(f"slo: no limit called {name!r}: use {', '.join(NAMES)}, good or errors")
        elif percent:
            key = base, _percent(part, percent)
            if key in percentiles:  # p99 and p99.0
                raise LoadtestError(f"slo: {base} p{key[1]:g} is given twice: keep one of the two")
            percentiles[key] = _seconds(part, value)
        elif base == "itl":
            raise LoadtestError(
                "slo: itl needs a percentile because one request has many gaps: write e.g. itl.p99=80ms"
            )
        else:
            limits[base] = _seconds(part, value)
    if "good" in seen and not limits:
        raise LoadtestError(
            "slo: good= is a share of requests that meet their limits, and none is given: add e.g. ttft=200ms"
        )
    return Slo(limits, percentiles, shares["good"], shares["errors"])


def _seconds(part: str, value: str) -> float:
    match = _TIME.match(value)
    if match is None or float(match[1]) <= 0:
        raise LoadtestError(f"slo: {part!r} needs a time above 0 with its unit (us, ms, s): write e.g. ttft=200ms")
    return float(match[1]) * UNITS[match[2]]


def _share(part: str, value: str) -> float:
    match = _SHARE.match(value)
    if match is None or float(match[1]) > 100:
        raise LoadtestError(f"slo: {part!r} needs a share from 0% to 100%: write e.g. good=95%")
    return float(match[1]) / 100


def _percent(part: str, text: str) -> float:
    try:
        percent = float(text[1:])
    except ValueError:
        percent = -1.0
    if not text.startswith("p") or not 0 < percent < 100:
        raise LoadtestError(f"slo: {part!r} needs a percentile between 0 and 100: write e.g. ttft.p99=500ms")
    return percent
