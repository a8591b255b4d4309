"""Small statistics: quantiles, a bootstrap that needs no distribution, a slope, and running streams from intervals."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its confidence interval. ``least`` is the lower end where several are judged together: that
    any of them is above 0 by chance is then as likely as of a single ``low``."""

    value: float
    low: float
    high: float
    least: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def quantile(values: Sequence[float] | Array, percent: float) -> float:
    """Nearest-rank percentile, as the histogram gives it; NaN when empty."""
    if len(values) == 0:
        return math.nan
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[max(0, math.ceil(percent / 100 * len(ordered) - 1e-9) - 1)])


def is_longest(count: int, percent: float) -> bool:
    """Is the nearest-rank percentile of so few values just the largest of them? True below 1 / (1 - p) values."""
    return count > 0 and math.ceil(percent / 100 * count - 1e-9) >= count


def needed(percent: float) -> int:
    """Values of each side that a comparison of this percentile takes.

    Of n values all lie below the percentile q with probability q^n; from 2.5 % on, the upper end of its 95 % interval
    is beyond all of them."""
    return math.ceil(math.log(0.025) / math.log(percent / 100))


def percentiles_ms(values: Sequence[float], percents: Sequence[int] = (50, 90, 99)) -> dict[str, float]:
    """``{"p50": …}`` of seconds, in milliseconds, interpolated linearly; empty for no values."""
    if len(values) == 0:
        return {}
    found = np.percentile(np.asarray(values, dtype=np.float64), percents) * 1e3
    return {f"p{percent}": round(float(value), 3) for percent, value in zip(percents, found, strict=True)}


def bootstrap_difference(
    a: Sequence[float], b: Sequence[float], statistic: Callable[[Array], Array], together: int = 1
) -> Interval:
    """``statistic(b) − statistic(a)`` with its 95 % percentile-bootstrap interval, one of so many ``together``.

    ``statistic`` maps an array [resamples, n] to [resamples]. Both samples are drawn anew, independently, 2000 times.
    """
    rng = np.random.default_rng(1)
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = _resampled(second, statistic, rng) - _resampled(first, statistic, rng)
    least, low, high = np.percentile(differences, [2.5 / together, 2.5, 97.5])  # Bonferroni's correction
    point = float(statistic(second[None, :])[0] - statistic(first[None, :])[0])
    return Interval(point, float(low), float(high), float(least))


def _resampled(values: Array, statistic: Callable[[Array], Array], rng: np.random.Generator) -> Array:
    """Batches of 100 resamples, so that 100,000 requests need 80 MB and not 1.6 GB."""
    parts = [statistic(values[rng.integers(0, len(values), size=(100, len(values)))]) for _ in range(RESAMPLES // 100)]
    return np.concatenate(parts)


def percentile_of_rows(percent: float) -> Callable[[Array], Array]:
    """Nearest-rank, as every percentile of a report."""
    return lambda rows: np.asarray(np.percentile(rows, percent, axis=1, method="inverted_cdf"), dtype=np.float64)


def mean_of_rows(rows: Array) -> Array:
    return np.asarray(rows.mean(axis=1), dtype=np.float64)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares slope and its standard error; (0, inf) with fewer than three points."""
    if len(points) < 3:
        return 0.0, math.inf
    x, y = np.asarray(points, dtype=np.float64).T
    spread = float(((x - x.mean()) ** 2).sum())
    if spread == 0:
        return 0.0, math.inf
    value = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    residual = y - y.mean() - value * (x - x.mean())
    return value, math.sqrt(float((residual**2).sum()) / (len(points) - 2) / spread)


def running_streams(intervals: Sequence[tuple[float, float]], step: float, end: float) -> list[tuple[float, float]]:
    """(t, streams open at t) every ``step`` seconds up to ``end``, from [start, stop) intervals."""
    starts = np.sort(np.asarray([i[0] for i in intervals], dtype=np.float64))
    stops = np.sort(np.asarray([i[1] for i in intervals], dtype=np.float64))
    times = np.arange(0.0, end + step / 2, step)
    open_now = np.searchsorted(starts, times, side="right") - np.searchsorted(stops, times, side="right")
    return [(float(t), float(n)) for t, n in zip(times, open_now, strict=True)]


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most ``limit`` of the points, drawn evenly, for a chart."""
    if len(points) <= limit:
        return list(points)
    return sorted(random.Random(0).sample(list(points), limit))
