"""Replicas for a rate: the model against a simulated pool, its limits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loadtest.capacity import ReplicaLimit, capacity, limit_of, overload, rate_of, replicas_for
from loadtest.errors import LoadtestError

LIMIT = ReplicaLimit(rate=12.0, seconds=4.0)  # 48 streams


def open_streams(rate: float, seconds: float, horizon: float, seed: int) -> np.ndarray:
    """How many answers are open at each of 20,000 moments: Poisson arrivals, lengths that vary widely."""
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.uniform(-60, horizon, rng.poisson(rate * (horizon + 60))))
    ends = np.sort(starts + rng.gamma(0.5, seconds / 0.5, len(starts)))
    moments = np.linspace(60, horizon, 20_000)
    return np.searchsorted(starts, moments) - np.searchsorted(ends, moments)


@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_the_share_over_the_limit_is_that_of_a_simulated_pool(replicas: int) -> None:
    rate = rate_of(replicas, LIMIT, 0.05)
    seen = float(np.mean(open_streams(rate, LIMIT.seconds, 4_000, replicas) > replicas * LIMIT.streams))
    assert seen == pytest.approx(overload(rate, replicas, LIMIT), abs=0.02) and seen > 0.02


def test_larger_pools_waste_less() -> None:
    each = [rate_of(count, LIMIT, 0.01) / count for count in (1, 2, 8, 100, 1000)]
    assert each == sorted(each) and 0.6 * LIMIT.rate < each[0] < each[-1] < LIMIT.rate


@pytest.mark.parametrize("rate", [0.5, 11.0, 200.0, 10_000.0])
def test_the_answer_is_the_smallest_that_is_enough(rate: float) -> None:
    needed = replicas_for(rate, LIMIT, 0.01)
    assert overload(rate, needed, LIMIT) <= 0.01 < (overload(rate, needed - 1, LIMIT) if needed > 1 else 1)


def sweep(folder: Path, *, met: bool) -> Path:
    steps = [{"rate": r, "met": met and r < 16, "total": {"latency": {"e2e": {"mean": 4.0}}}} for r in (4, 8, 12, 16)]
    path = folder / "sweep.json"
    path.write_text(json.dumps({"slo": "ttft=500ms", "steps": steps}))
    return path


def test_the_limit_is_the_highest_rate_that_was_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert limit_of(sweep(tmp_path, met=True)) == (ReplicaLimit(12, 4.0), "ttft=500ms")
    assert capacity(200, str(tmp_path / "sweep.json"), 0.01) == 0
    said = capsys.readouterr().out
    assert f"200 requests/s: {replicas_for(200, LIMIT, 0.01)} replicas" in said and "1000" in said


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match="is not a sweep"):
        limit_of(tmp_path / "none.json")
    with pytest.raises(LoadtestError, match="too slow"):
        limit_of(sweep(tmp_path, met=False))
