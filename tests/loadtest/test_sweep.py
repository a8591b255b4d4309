"""The search for the highest rate that meets the limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import sweep
from loadtest.cli import parser
from loadtest.errors import LoadtestError
from loadtest.plan import plan_from
from loadtest.progress import Progress
from loadtest.rate_search import RateStep, search
from loadtest.sweep import conclusion
from tests.loadtest.test_figures import record, reported, run_of


@given(st.floats(0.3, 200), st.floats(0.5, 8))
def test_sweep_closes_in_on_the_capacity(capacity: float, start: float) -> None:
    def run(rate: float) -> RateStep:
        return RateStep(rate, rate <= capacity, False, rate > capacity * 1.2, {})

    steps = search(run, start)
    met = max((s.rate for s in steps if s.met), default=None)
    if capacity >= start / 60:
        assert met is not None and met <= capacity <= met * 1.15 + 0.01
    assert len(steps) <= 18 and any(s.saturated for s in steps) and "saturates at" in conclusion(steps)


def test_sweep_stops_at_an_invalid_run_and_at_its_highest_rate() -> None:
    assert len(search(lambda rate: RateStep(rate, rate < 3, rate >= 4, False, {}), 1)) == 3
    assert [s.rate for s in search(lambda rate: RateStep(rate, True, False, False, {}), 1, 5)] == [1, 2, 4, 5]
    beyond = search(lambda rate: RateStep(rate, rate <= 1, False, rate > 4, {}), 1)
    assert beyond[-1].saturated and beyond[-1].rate == 4.5


def test_a_sweep_down_to_rates_that_send_nothing_ends_with_what_it_measured() -> None:
    """A rate without a request in its window was the user's mistake, and ended the sweep with exit code 2."""
    steps = search(lambda rate: RateStep(rate, False, False, True, {}), 0.01, None, lambda rate: rate > 0.002)
    assert [s.rate for s in steps] == [0.01, 0.005, 0.0025]


@pytest.mark.parametrize(("duration", "noted"), [("1s", 2), ("4s", 0)])
@pytest.mark.parametrize("end", [KeyboardInterrupt, LoadtestError("the server died")])
def test_what_a_sweep_measured_before_it_was_ended_is_kept(
    end: BaseException,
    duration: str,
    noted: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And a window that was short for the answers is noted after the first rate, and beside what was found."""

    def second_fails(process: subprocess.Popen[bytes], progress: Progress) -> int:
        process.wait()
        directory = tmp_path / "rate-1"
        if (directory / "summary.json").exists():
            raise end
        reported(run_of([record(k) for k in range(9)], duration=duration), directory)
        return 0

    monkeypatch.setattr(sweep, "check_target", lambda plan: None)
    monkeypatch.setattr(sweep, "locust_command", lambda options: [sys.executable, "-c", ""])
    monkeypatch.setattr(sweep, "_finish", second_fails)
    options = parser().parse_args(["sweep", "--slo", "ttft=9s", "--duration", duration, "--out", str(tmp_path)])
    with pytest.raises((KeyboardInterrupt, LoadtestError)):
        sweep.sweep(options)
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["highest_rate_met"] == 1 and len(found["steps"]) == 1 and not found["complete"]
    said = "no higher rate was tried; ended before it had found the limit"
    page = (tmp_path / "sweep.html").read_text()
    assert said in page and page.count("is short for answers of 1.0 s") == min(noted, 1)
    assert capsys.readouterr().out.count("\nnote: a window of 1 s is short for answers of 1.0 s") == noted


def test_a_terminal_closed_between_two_rates_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is there to notice it, and the next one would have no terminal at all."""

    def passes(process: subprocess.Popen[bytes], progress: Progress) -> int:
        process.wait()
        reported(run_of([record(k) for k in range(9)], duration="4s"), tmp_path / "rate-1")
        return 0

    closed = iter([False, True])
    monkeypatch.setattr(sweep, "Terminal", lambda: SimpleNamespace(has_ended_us=lambda: next(closed)))
    monkeypatch.setattr(sweep, "check_target", lambda plan: None)
    monkeypatch.setattr(sweep, "locust_command", lambda options: [sys.executable, "-c", ""])
    monkeypatch.setattr(sweep, "_finish", passes)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(parser().parse_args(["sweep", "--slo", "ttft=9s", "--duration", "4s", "--out", str(tmp_path)]))
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert len(found["steps"]) == 1 and not found["complete"]


def test_a_rate_beyond_which_none_was_tried_is_no_limit() -> None:
    steps = search(lambda rate: RateStep(rate, True, False, False, {}), 1, 5)
    assert conclusion(steps).startswith(
        "highest rate that meets the limits: 5 requests/s; no saturation seen; no higher"
    )
    steps = search(lambda rate: RateStep(rate, rate < 3, False, rate > 4, {}), 1)
    assert "no higher" not in conclusion(steps)


def test_a_generator_that_was_late_says_nothing_about_the_server() -> None:
    late = RateStep(1, False, True, False, {"verdict": {"cause": "machine"}})
    found = conclusion([late])
    assert found.startswith("no run was valid, which says nothing about the server; ") and "machine became" in found
    assert conclusion([RateStep(2, False, False, False, {}), late]).startswith("no rate met the limits")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ui"], "ui: a sweep runs without the web UI"),
        (["--rate", "100", "--max-rate", "2"], "max-rate: 2 is below the first rate, 100"),
    ],
)
def test_what_a_sweep_cannot_do_is_refused(options: list[str], says: str) -> None:
    with pytest.raises(LoadtestError, match=f"^{says}"):
        sweep.sweep(parser().parse_args(["sweep", "--slo", "ttft=1s", *options]))


def test_a_trace_has_times_of_its_own(tmp_path: Path) -> None:
    options = parser().parse_args(["sweep", "--scenario", "trace", "--slo", "ttft=9s", "--out", str(tmp_path)])
    with pytest.raises(LoadtestError, match=r"^requests: a sweep measures each rate for DURATION"):
        sweep.sweep(parser().parse_args(["sweep", "--slo", "ttft=1s", "--requests", "9"]))
    with pytest.raises(LoadtestError, match=r"^scenario: trace has its own times.*ARRIVALS=poisson"):
        sweep.sweep(options)


@given(st.floats(2, 40))
def test_the_outline_names_the_numbers_of_rates_that_a_sweep_takes(capacity: float) -> None:
    steps = search(lambda rate: RateStep(rate, rate <= capacity, False, rate > capacity * 1.2, {}), 1)
    assert sweep.USUAL[0] <= len(steps) <= sweep.USUAL[1]


def test_a_sweep_says_at_the_start_what_it_is_going_to_do() -> None:
    plan = plan_from({"rate": "2", "slo": "ttft=200ms"})
    said = sweep.outline(plan, None)
    assert (
        said.startswith("plan: 2, 4, 8 … requests/s until the limits ttft=200ms break")
        and "usually 7 to 12 rates, 8:17 to 20:12 min; at most 18 rates;" in said
    )
    assert "each rate: 5 s of warm-up, 60 s measured, up to 30 s for the last answers: 71 to 101 s" in said
    bounded = sweep.outline(plan, 5.0)
    assert bounded.startswith("plan: 2, 4 … requests/s, at most 5, until") and "usually" not in bounded
