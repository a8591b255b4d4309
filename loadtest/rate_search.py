"""The highest rate that meets the limits: which rates to try, in which order, and when to stop. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BISECTIONS = 4
MAX_STEPS, MAX_BEYOND = 14, 4  # rates until the limit is found; then until streams pile up
BEYOND = 1.5  # factor between the steps that look for saturation


@dataclass(frozen=True, slots=True)
class RateStep:
    rate: float
    met: bool
    invalid: bool
    saturated: bool
    summary: dict[str, Any]


def step_of(rate: float, summary: dict[str, Any]) -> RateStep:
    saturated = summary["saturation"]["saturated"]
    state = summary["verdict"]["state"]
    return RateStep(rate, state == "pass" and not saturated, state == "invalid", saturated, summary)


def rounded(rate: float) -> float:
    """To six digits, and never to 0."""
    return float(f"{rate:g}")


def search(
    run: Callable[[float], RateStep],
    start: float,
    highest: float | None = None,
    sends: Callable[[float], bool] = lambda rate: True,
) -> list[RateStep]:
    """Steps in the order they were run. Pure: ``run`` does the work. Stops at an invalid run.

    ``sends``: whether a rate is high enough for a request to fall into its window."""
    steps = [run(start)]
    good, bad = (start, None) if steps[0].met else (None, start)
    while len(steps) < MAX_STEPS and not steps[-1].invalid:
        if bad is None:
            assert good is not None
            if highest is not None and good >= highest:
                break
            rate = min(good * 2, highest or good * 2)
        elif good is None:
            rate = bad / 2
            if rate < start / 64 or not sends(rounded(rate)):
                break
        elif len([s for s in steps if good < s.rate < bad * 1.001]) > BISECTIONS or bad / good < 1.06:
            break
        else:
            rate = (good + bad) / 2
        steps.append(run(rounded(rate)))
        if steps[-1].met:
            good = max(good or 0.0, steps[-1].rate)
        else:
            bad = min(bad or steps[-1].rate, steps[-1].rate)
    return steps + _beyond(run, steps, highest)


def _beyond(run: Callable[[float], RateStep], steps: list[RateStep], highest: float | None) -> list[RateStep]:
    """Up to ``MAX_BEYOND`` more steps, until streams pile up."""
    more: list[RateStep] = []
    rate = max(s.rate for s in steps)
    while len(more) < MAX_BEYOND and not any(s.saturated or s.invalid for s in steps + more):
        rate = rounded(rate * BEYOND)
        if highest is not None and rate > highest:
            break
        more.append(run(rate))
    return more
