"""Replicas for a rate: the model against a simulated pool, its limits, and what is refused."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from loadtest.capacity import ReplicaLimit, capacity, erlang_c, limit_of, overload, rate_of, replicas_for
from loadtest.cli import parser
from loadtest.errors import LoadtestError

LIMIT = ReplicaLimit(rate=12.0, seconds=4.0)  # 48 streams


def share_that_waits(rate: float, replicas: int, lengths: Callable[[int], npt.NDArray[np.float64]]) -> float:
    """Of 200,000 Poisson arrivals at a pool whose places serve whoever came first."""
    rng = np.random.default_rng(replicas)
    places = [0.0] * math.floor(replicas * LIMIT.streams)  # when each is free again
    now, waited = 0.0, 0
    for gap, length in zip(rng.exponential(1 / rate, 200_000), lengths(200_000), strict=True):
        now += gap
        free = heapq.heappop(places)
        waited += free > now
        heapq.heappush(places, max(free, now) + length)
    return waited / 200_000


@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_the_share_that_waits_is_that_of_a_simulated_pool(replicas: int) -> None:
    """Lengths that vary as in the formula, and the same length for all, for which it is on the safe side."""
    rate, rng = rate_of(replicas, LIMIT, 0.1), np.random.default_rng(1)
    assert overload(rate, replicas, LIMIT) == pytest.approx(0.1, abs=0.001)
    assert share_that_waits(rate, replicas, lambda n: rng.exponential(LIMIT.seconds, n)) == pytest.approx(0.1, abs=0.02)
    assert 0.05 < share_that_waits(rate, replicas, lambda n: np.full(n, LIMIT.seconds)) < 0.11


def test_one_place_is_a_queue_with_one_server() -> None:
    assert erlang_c(1, 0.3) == pytest.approx(0.3) and erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert (erlang_c(5, 0), erlang_c(5, 5), erlang_c(100_000, 50_000)) == (0, 1, 0)


def by_recursion(places: int, load: float) -> float:
    """The textbook's way, a step for each place."""
    inverse = 1.0
    for place in range(1, places + 1):
        inverse = 1 + place / load * inverse
    return 1 / (inverse * (1 - load / places) + load / places)


@pytest.mark.parametrize(("places", "load"), [(1, 0.9), (48, 47.9), (300, 280.0), (10_000, 9_900.5)])
def test_terms_that_are_left_out_change_nothing(places: int, load: float) -> None:
    assert erlang_c(places, load) == pytest.approx(by_recursion(places, load), rel=1e-9)


def test_a_pool_of_any_size_is_answered() -> None:
    """A step for each place of 100 million took minutes."""
    needed = replicas_for(9e6, LIMIT, 0.01)
    assert overload(9e6, needed, LIMIT) <= 0.01 < overload(9e6, needed - 1, LIMIT)
    assert 9e6 / LIMIT.rate < needed < 1.001 * 9e6 / LIMIT.rate


def test_larger_pools_waste_less() -> None:
    each = [rate_of(count, LIMIT, 0.01) / count for count in (1, 2, 8, 100, 1000)]
    assert each == sorted(each) and 0.6 * LIMIT.rate < each[0] < each[-1] < LIMIT.rate


@pytest.mark.parametrize("rate", [0.5, 11.0, 200.0, 10_000.0])
def test_the_answer_is_the_smallest_that_is_enough(rate: float) -> None:
    needed = replicas_for(rate, LIMIT, 0.01)
    assert overload(rate, needed, LIMIT) <= 0.01 < (overload(rate, needed - 1, LIMIT) if needed > 1 else 1)


def sweep(folder: Path, *, met: bool) -> Path:
    figures = {"plan": {"duration": 60.0}, "total": {"latency": {"e2e": {"mean": 4.0, "p50": 3.5}}}}
    steps = [figures | {"rate": r, "met": met and r < 16} for r in (4, 8, 12, 16)]
    path = folder / "sweep.json"
    path.write_text(json.dumps({"slo": "ttft=500ms", "steps": steps}))
    return path


def test_the_limit_is_the_highest_rate_that_was_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert limit_of(sweep(tmp_path, met=True)) == (ReplicaLimit(12, 4.0), "ttft=500ms", [])
    assert capacity(200, str(tmp_path), 0.01) == 0  # the directory that the sweep named, or its file
    assert capacity(200, str(tmp_path / "sweep.json"), 0.01) == 0
    said = capsys.readouterr().out
    assert "note" not in said
    assert f"200 requests/s: {replicas_for(200, LIMIT, 0.01)} replicas" in said and "1000" in said


def test_a_sweep_that_found_no_limit_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep(tmp_path, met=True)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"complete": False}))
    assert capacity(200, str(path), 0.01) == 0
    assert "note: it ended before it had found the limit: one replica may take more" in capsys.readouterr().out
    path.write_text(json.dumps(data | {"steps": data["steps"][:3]}))
    assert capacity(200, str(path), 0.01) == 0
    assert "note: no higher rate was tried in it: one replica may take more" in capsys.readouterr().out


def test_a_sweep_whose_windows_were_shorter_than_its_answers_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep(tmp_path, met=True)
    path.write_text(path.read_text().replace('"duration": 60.0', '"duration": 2'))
    assert capacity(200, str(path), 0.01) == 0
    said = capsys.readouterr().out
    assert "note: in that sweep a window of 2 s is short for answers of 3.5 s" in said
    assert "give DURATION=18s or more, and sweep again" in said


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match="is not a sweep"):
        limit_of(tmp_path / "none.json")

    def step(**changed: object) -> str:
        mean = {"latency": {"e2e": {"mean": changed.pop("mean", 4.0), "p50": 4.0}}}
        plan = {"duration": 60.0}
        return json.dumps({"slo": "x", "steps": [{"rate": 4, "met": True, "total": mean, "plan": plan} | changed]})

    wrong = [step(rate=value) for value in (0, -1, "5", None, math.nan)]
    wrong += [step(mean=value) for value in (0, None, math.inf)] + [step(total={}), step(total=None)]
    for damage in ("[]", "{}", '{"slo": "x", "steps": [{"rate": 4}]}', "[" * 100_000, *wrong):
        (tmp_path / "sweep.json").write_text(damage)
        with pytest.raises(LoadtestError, match="is not a sweep"):
            limit_of(tmp_path / "sweep.json")
    missed = sweep(tmp_path, met=False)
    with pytest.raises(LoadtestError, match="too slow"):
        limit_of(missed)
    data = json.loads(missed.read_text())
    data["steps"] = [step | {"verdict": {"state": "invalid"}} for step in data["steps"]]
    missed.write_text(json.dumps(data))
    with pytest.raises(LoadtestError, match=r"no run of .* was valid: repeat the sweep"):
        limit_of(missed)


def test_more_than_a_pool_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match="over 1,000,000 replicas of 12: give a smaller RATE"):
        capacity(1e9, str(sweep(tmp_path, met=True)), 0.01)


@pytest.mark.parametrize("risk", ["0", "100", "nan", "x"])
def test_a_risk_is_a_share_of_the_requests(risk: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At 100 % and more one replica was enough for any rate."""
    with pytest.raises(SystemExit):
        parser().parse_args(["capacity", "--rate", "5", "--risk", risk])
    assert "--risk" in capsys.readouterr().err
