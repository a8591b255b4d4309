"""Schedule, lengths, histogram, limits, statistics: properties that hold for any input."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.arrivals import Arrivals, parse_arrivals, schedule, shard
from loadtest.errors import LoadtestError
from loadtest.histogram import RELATIVE_ERROR, Histogram
from loadtest.lengths import parse_length
from loadtest.slo import parse_slo
from loadtest.stats import bootstrap_difference, is_longest, percentile_of_rows, quantile, running_streams, slope

positive = st.floats(1e-6, 1e4, allow_nan=False)
samples = st.lists(positive, min_size=1, max_size=200)
OPEN = ["constant", "poisson", "gamma:0.25", "gamma:3", "ramp", "staircase:4", "burst:8"]


@given(samples, st.floats(0.1, 100))
def test_histogram_percentile_is_within_its_error_of_the_exact_one(values: list[float], q: float) -> None:
    exact = sorted(values)[max(0, math.ceil(q / 100 * len(values) - 1e-9) - 1)]
    found = Histogram.of(values).percentile(q)
    assert found == pytest.approx(exact, rel=RELATIVE_ERROR * 1.001)
    assert RELATIVE_ERROR <= 0.01


@given(st.lists(samples, min_size=1, max_size=6))
def test_histograms_of_workers_merge_into_the_histogram_of_all(parts: list[list[float]]) -> None:
    merged, whole = Histogram(), Histogram.of(v for part in parts for v in part)
    for part in parts:
        merged.merge(Histogram.from_wire(json.loads(json.dumps(Histogram.of(part).to_wire()))))
    assert merged.counts == whole.counts
    assert (merged.count, merged.minimum, merged.maximum) == (whole.count, whole.minimum, whole.maximum)
    assert merged.total == pytest.approx(whole.total)


def test_empty_histogram_has_no_figures() -> None:
    empty = Histogram.from_wire(Histogram().to_wire())
    assert empty.percentile(50) is None and empty.mean is None and empty.cdf() == []


def test_zero_and_negative_values_are_counted() -> None:
    histogram = Histogram.of([0.0, -1.0, 1.0])
    assert histogram.count == 3 and histogram.percentile(99) == 1.0


@pytest.mark.parametrize("text", OPEN)
@given(rate=st.floats(0.5, 50), duration=st.floats(5, 60), seed=st.integers(0, 10))
@settings(max_examples=25)
def test_schedule_is_sorted_in_range_and_the_same_for_a_seed(
    text: str, rate: float, duration: float, seed: int
) -> None:
    times = schedule(parse_arrivals(text), rate, duration, seed)
    assert list(times) == sorted(times)
    assert all(0 <= t < duration for t in times)
    assert times == schedule(parse_arrivals(text), rate, duration, seed)
    assert schedule(parse_arrivals(text), rate, duration, seed, 7) == times[:7], "the first of them"


@pytest.mark.parametrize(
    ("text", "share"),
    [("constant", 1), ("poisson", 1), ("gamma:0.25", 1), ("burst:8", 1), ("ramp", 0.5), ("staircase:4", 0.625)],
)
def test_schedule_has_the_rate_asked_for(text: str, share: float) -> None:
    expected = 40 * 250 * share
    assert len(schedule(parse_arrivals(text), 40, 250, 3)) == pytest.approx(expected, rel=0.05)


def test_gamma_is_burstier_than_poisson() -> None:
    def variation(text: str) -> float:
        gaps = np.diff(schedule(parse_arrivals(text), 50, 200, 1))
        return float(gaps.std() / gaps.mean())

    assert variation("constant") < 0.01
    assert variation("poisson") == pytest.approx(1.0, abs=0.08)
    assert variation("gamma:0.25") == pytest.approx(2.0, abs=0.2)


def test_staircase_and_ramp_grow() -> None:
    for text in ("ramp", "staircase:4"):
        counts = np.histogram(schedule(parse_arrivals(text), 40, 100, 1), bins=4, range=(0, 100))[0]
        assert list(counts) == sorted(counts) and counts[3] > 3 * counts[0]


@given(st.integers(1, 9), st.integers(0, 300))
def test_shards_are_a_partition(workers: int, count: int) -> None:
    times = tuple(float(t) for t in range(count))
    parts = [item for index in range(workers) for item in shard(times, index, workers)]
    assert sorted(parts) == list(enumerate(times))


@pytest.mark.parametrize("text", ["", "uniform", "gamma:x", "gamma:0", "poisson:3", "burst:1.5", "staircase:-1"])
def test_bad_arrivals_are_one_line(text: str) -> None:
    with pytest.raises(LoadtestError, match=r"^arrivals: [^\n]+$"):
        parse_arrivals(text)


def test_a_schedule_too_large_for_memory_is_refused() -> None:
    with pytest.raises(LoadtestError, match="over 5000000 requests"):
        schedule(Arrivals("poisson"), 1e5, 3600, 1)


@given(st.sampled_from(["7", "uniform(3,90)", "normal(50,30)", "lognormal(100,0.7)"]), st.integers(0, 99))
def test_lengths_are_whole_and_positive(text: str, seed: int) -> None:
    length = parse_length(text)
    drawn = [length.sample(random.Random(seed)) for _ in range(2)]
    assert drawn[0] == drawn[1] >= 1 and isinstance(drawn[0], int)
    assert parse_length(str(length)) == length


def test_lengths_follow_their_distribution() -> None:
    rng = random.Random(1)
    drawn = [parse_length("lognormal(100,0.5)").sample(rng) for _ in range(4000)]
    assert np.median(drawn) == pytest.approx(100, rel=0.05)
    assert np.std(np.log(drawn)) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    "text", ["x", "-4", "0", "uniform(9,3)", "poisson(3,4)", "normal(1)", "uniform(1,9999999)", "1..2"]
)
def test_bad_lengths_are_one_line(text: str) -> None:
    with pytest.raises(LoadtestError, match=r"^input-tokens: [^\n]+$"):
        parse_length(text, "input-tokens")


def test_slo_text() -> None:
    slo = parse_slo("ttft=200ms, tpot=0.05s,e2e.p99=8s,good=90%,errors=1%")
    assert slo.limits == {"ttft": 0.2, "tpot": 0.05}
    assert slo.percentiles == {("e2e", 99.0): 8.0}
    assert (slo.good, slo.errors) == (0.9, 0.01)
    assert slo.is_good({"ttft": 0.2, "tpot": None}) and not slo.is_good({"ttft": 0.21, "tpot": 0.01})


@pytest.mark.parametrize(
    "text",
    [
        "ttft",
        "ttft=abc",
        "ttft=200",
        "ttft=0ms",
        "speed=1s",
        "ttft.q9=1s",
        "ttft.p100=1s",
        "good=200%",
        "itl=5ms",
        "good=95%",
        "e2e.p99=8s,good=95%",
        "ttft.p99=1s,ttft.p99.0=2s",
        "ttft=٥ms",
    ],
)
def test_bad_slo_is_one_line(text: str) -> None:
    with pytest.raises(LoadtestError, match=r"^slo: [^\n]+$"):
        parse_slo(text)


@given(samples)
def test_quantile_is_one_of_the_values(values: list[float]) -> None:
    assert quantile(values, 50) in values and quantile(values, 100) == max(values)


@given(st.integers(1, 400), st.sampled_from([50, 90, 95, 99]))
def test_a_percentile_of_too_few_values_is_the_largest(count: int, percent: int) -> None:
    values = [float(k) for k in range(1, count + 1)]
    assert is_longest(count, percent) is (quantile(values, percent) == count)
    assert is_longest(count, percent) is (count * (100 - percent) < 100)


def test_bootstrap_finds_a_difference_and_does_not_invent_one() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(1, 0.1, 300), rng.normal(1, 0.1, 300), rng.normal(1.1, 0.1, 300)
    median = percentile_of_rows(50)
    assert not bootstrap_difference(a, b, median).excludes_zero
    found = bootstrap_difference(a, c, median)
    assert found.excludes_zero and found.low < 0.1 < found.high


def test_slope_of_a_line() -> None:
    value, error = slope([(float(t), 3.0 * t + 1) for t in range(20)])
    assert value == pytest.approx(3.0) and error == pytest.approx(0.0, abs=1e-9)
    assert slope([(0.0, 1.0), (1.0, 2.0)])[1] == math.inf


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 20)), max_size=40))
def test_running_streams_counts_open_intervals(spans: list[tuple[float, float]]) -> None:
    intervals = [(start, start + length) for start, length in spans]
    for t, n in running_streams(intervals, 5.0, 70.0):
        assert n == sum(start <= t < stop for start, stop in intervals)
