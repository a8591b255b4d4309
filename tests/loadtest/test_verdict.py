"""Why a run is invalid, and what it shows all the same."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest

from loadtest.console import summary_text
from loadtest.slo import parse_slo
from loadtest.verdict import WorkerHealth, judge
from tests.loadtest.test_figures import HEALTHY, SCHEMA, lane_of, record, reported, run_of


@pytest.mark.parametrize(
    ("health", "planned", "cause", "says"),
    [
        (WorkerHealth(0, 0.97, 0.001, 9), 20, "generator", "97% of a core"),
        (WorkerHealth(0, 0.2, 0.3, 9, own_lag_p99=0.2), 20, "generator", "event loop was late by 300.0 ms"),
        (WorkerHealth(0, 0.2, 0.3, 9, own_lag_p99=0.2), 20, "generator", "add workers or lower the rate"),
        (WorkerHealth(0, 0.04, 0.025, 9, own_lag_p99=0.001, queued=0.3, machine=0.98), 20, "machine", "chrt -r 5"),
        (WorkerHealth(0, 0.04, 0.025, 9, machine=0.98), 20, "machine", "(98% busy; worker 0 used 4% of a core"),
        (WorkerHealth(0, 0.95, 0.4, 9, own_lag_p99=0.1), 20, "generator", "add workers"),
        (WorkerHealth(0, 0.2, 0.001, 9, finished=False), 20, "counts", "worker 0 was lost"),
        (WorkerHealth(0, 0.2, 0.3, 9, stood_s=6.04), 20, "stop", "worker 0 stood still for 6.0 s"),
        (HEALTHY, 25, "counts", "20 of 25 planned"),
    ],
)
def test_invalid_runs_say_why(health: WorkerHealth, planned: int, cause: str, says: str) -> None:
    verdict = judge(lane_of([record(k) for k in range(20)]), parse_slo(""), [health], planned)
    said = " ".join(verdict.reasons)
    assert verdict.exit_code == 3 and says in said and verdict.cause == cause
    assert ("generator was the bottleneck" in said, "machine was the bottleneck" in said, "add workers" in said) == (
        cause == "generator", cause == "machine", cause == "generator",
    )  # fmt: skip


def test_late_sends_and_lost_requests_make_a_run_invalid() -> None:
    late = lane_of([record(k, late=0.2) for k in range(20)])
    assert "schedule lag" in judge(late, parse_slo(""), [HEALTHY], 20).reasons[0]
    assert judge(late, parse_slo(""), [HEALTHY], 20).cause == "generator", "its loop was on time: it built bursts"
    waiting_for_a_core = WorkerHealth(0, 0.04, 0.018, 9, own_lag_p99=0.001)
    assert judge(late, parse_slo(""), [waiting_for_a_core], 20).cause == "machine", (
        "whose loop is just within the limit"
    )
    lane = lane_of([record(k) for k in range(20)])
    lane.counts["completed"] -= 1
    assert "do not add up" in judge(lane, parse_slo(""), [HEALTHY], 20).reasons[0]


def test_an_invalid_run_shows_its_limits_and_judges_none(tmp_path: Path) -> None:
    run = run_of([record(k) for k in range(40)], slo="ttft=200ms,ttft.p90=2ms")
    run.workers = {0: WorkerHealth(0, 0.04, 0.025, 9, own_lag_p99=0.001, queued=0.3, machine=0.98)}
    summary = reported(run, tmp_path)
    jsonschema.validate(summary, SCHEMA)
    assert {row["met"] for row in summary["limits"]} == {None} and summary["verdict"]["cause"] == "machine"
    lines = summary_text(summary).split("limits:\n")[1].splitlines()
    assert " ".join(lines[0].split()) == "TTFT ≤ 200 ms (95%) 100.0% not judged: the run is invalid"
    assert lines[1].startswith("  TTFT p90 ≤ 2 ms") and "100.0 ms  not judged" in lines[1]
    assert lines[3] == "verdict: INVALID"
    page = (tmp_path / "report.html").read_text()
    assert "machine was the bottleneck</span>" in page and page.count("<td class=n>not judged</td>") == 3
    judged = summary_text(reported(run_of(run.records, slo="ttft=200ms,ttft.p90=2ms"), tmp_path / "judged"))
    assert re.search(r"TTFT ≤ 200 ms \(95%\) +100.0%  met\n +TTFT p90 ≤ 2 ms +100.0 ms  missed\n", judged)
