"""From records to verdicts, summaries and pages."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.paths import ROOT
from loadtest.aggregate import Lane, merged
from loadtest.errors import LoadtestError
from loadtest.histogram import Histogram
from loadtest.plan import plan_from
from loadtest.record import Record
from loadtest.report import write_report
from loadtest.scrape import ServerSeries
from loadtest.slo import Slo, parse_slo
from loadtest.stats import percentile_of_rows
from loadtest.summary import Run, lane_figures, limits, saturation, summarize
from loadtest.verdict import WorkerHealth, judge
from loadtest.webui import streaming_rows

SCHEMA = json.loads((ROOT / "loadtest/report/summary.schema.json").read_text())
HEALTHY = WorkerHealth(worker=0, cpu=0.2, loop_lag_p99=0.001, messages=100, cpu_s=0.1)
outcomes = st.sampled_from(["completed", "failed", "cancelled", "in_flight"])


def record(
    index: int = 0, outcome: str = "completed", ttft: float = 0.1, late: float = 0.0, lane: str = "grpc"
) -> Record:
    at = 1.0 + 0.1 * index
    return Record(
        index, "chat", lane, True, at, at + late, at + late + ttft, at + late + ttft + 0.9, at + late + ttft + 0.9,
        outcome, "engine" if outcome == "failed" else "", completion_tokens=10, requested_tokens=10, messages=10,
    )  # fmt: skip


def lane_of(records: list[Record], slo: Slo | None = None) -> Lane:
    lane = Lane()
    for one in records:
        lane.scheduled(one.measured)
        lane.message(int(one.t_sched), one.completion_tokens, True)
        lane.finish(one, slo or parse_slo(""), True)
    return lane


def run_of(records: list[Record], **options: object) -> Run:
    plan = plan_from({"rate": "10", "duration": "4s", "warmup": "1s"} | options)
    lanes = {name: lane_of([r for r in records if r.transport == name]) for name in {r.transport for r in records}}
    server = ServerSeries("http://x/metrics", {"waiting": [(0.0, 1.0), (1.0, 3.0)], "kv": [(0.0, 0.5)]}, [0.0, 2.0])
    return Run(plan, {"triton": {"version": "1"}}, 1.7e9, {0: HEALTHY}, server, lanes, records)


def test_definitions() -> None:
    values = record(ttft=0.2, late=0.05).values()
    assert values["ttft"] == pytest.approx(0.2) and values["ttft_sched"] == pytest.approx(0.25)
    assert values["e2e"] == pytest.approx(1.1) and values["e2e_sched"] == pytest.approx(1.15)
    assert values["tpot"] == pytest.approx(0.1) and values["lag"] == pytest.approx(0.05)
    left = record(outcome="cancelled").values()
    assert left["ttft"] is not None and left["e2e"] is None and left["tpot"] is None


@given(st.lists(outcomes, max_size=60), st.integers(1, 4))
def test_counts_are_conserved_over_any_split(results: list[str], workers: int) -> None:
    records = [record(k, outcome) for k, outcome in enumerate(results)]
    parts = [lane_of(records[k::workers]) for k in range(workers)]
    total = merged(Lane.from_wire(json.loads(json.dumps(part.to_wire()))) for part in parts)
    assert total.conserved and total.counts["scheduled"] == len(results)
    assert total.to_wire()["counts"] == lane_of(records).counts
    assert total.histograms["ttft"].counts == lane_of(records).histograms["ttft"].counts


def test_warm_up_is_left_out_of_every_figure() -> None:
    warm = record()
    warm.measured = False
    lane = lane_of([warm, record(1)])
    assert lane.counts["warmup"] == 1 and lane.counts["scheduled"] == 1 and lane.histograms["e2e"].count == 1


def test_goodput_is_counted_from_the_schedule() -> None:
    lane = lane_of([record(0, ttft=0.1), record(1, ttft=0.1, late=0.2)], parse_slo("ttft=200ms"))
    assert lane.counts["good"] == 1


def test_goodput_is_never_more_than_throughput() -> None:
    """Both count what ended within the window; an answer that ends after it is good, but no goodput."""
    lane, slo = Lane(), parse_slo("ttft=200ms")
    for at, (ttft, in_window) in enumerate([(0.1, True), (0.5, True), (0.1, False)]):
        lane.scheduled(True)
        lane.finish(record(at, ttft=ttft), slo, in_window)
    figures = lane_figures(lane, 2.0, slo)
    assert (figures["requests_per_s"], figures["goodput_per_s"], lane.counts["good"]) == (1.0, 0.5, 2)


def test_verdicts() -> None:
    slo = parse_slo("ttft=200ms,good=90%,errors=10%")
    good = lane_of([record(k) for k in range(20)], slo)
    assert judge(good, slo, [HEALTHY], 20).state == "pass"
    slow = lane_of([record(k, ttft=0.1 if k < 10 else 0.5) for k in range(20)], slo)
    assert judge(slow, slo, [HEALTHY], 20).exit_code == 1
    broken = lane_of([record(k, "failed" if k < 5 else "completed") for k in range(20)], slo)
    assert "failed" in judge(broken, slo, [HEALTHY], 20).reasons[0]
    missed = judge(good, parse_slo("e2e.p99=500ms"), [HEALTHY], 20)
    assert missed.state == "fail" and "e2e p99" in missed.reasons[0]


def waiting(index: int, waited: float, first: bool = False) -> Record:
    """In flight when the run ended."""
    one = record(index, "in_flight")
    one.t_first = one.t_last = one.t_sched + 0.1 if first else None
    one.t_end = one.t_sched + waited
    return one


def test_who_waits_when_the_run_ends_is_no_survivor() -> None:
    """Nine answers took 1 s, and three requests had waited 30 s: the p90 is not 1 s."""
    records = [*(record(k) for k in range(9)), waiting(9, 30.0), waiting(10, 30.0), waiting(11, 30.0, first=True)]
    lane = lane_of(records)
    for text, missed in (
        ("e2e.p90=8s", True), ("e2e.p50=8s", False), ("e2e.p90=60s", False),  # nobody knows that it took over 60 s
        ("ttft.p90=8s", True), ("ttft.p80=8s", False), ("tpot.p90=8s", False),
    ):  # fmt: skip
        text += ",errors=25%"  # three of twelve
        verdict = judge(lane, parse_slo(text), [HEALTHY], 12)
        assert (verdict.state == "fail") is missed, (text, verdict)
        (row, errors) = limits(lane, parse_slo(text))
        assert row["met"] is not missed and errors["met"] and (row["measured"] == "not reached") is missed
    assert "e2e p90 is not reached" in judge(lane, parse_slo("e2e.p90=8s"), [HEALTHY], 12).reasons[1]
    assert limits(lane, parse_slo("e2e=8s"))[0]["measured"] == "75.0%"
    given_up = waiting(12, 30.0)
    given_up.outcome, given_up.error_kind = "failed", "timeout"
    assert lane_of([given_up]).over("e2e_sched", 8.0) == 1
    there_and_back = Lane.from_wire(json.loads(json.dumps(lane.to_wire())))
    assert merged([there_and_back, lane]).over("e2e_sched", 8.0) == 6
    assert "3 of 12 requests had not ended" in summarize(run_of(records))["notes"][0]


def test_a_server_that_hangs_does_not_pass() -> None:
    lane = lane_of([record(0), record(1), waiting(2, 30.0, first=True)])
    hung = judge(lane, parse_slo(""), [HEALTHY], 3)
    assert hung.state == "fail" and "1 of 3 requests had not ended when the drain did" in hung.reasons[0]
    assert limits(lane, parse_slo("ttft=9s"))[-1] == {"limit": "errors ≤ 0.0%", "measured": "1 / 3", "met": False}
    assert judge(lane, parse_slo("errors=40%"), [HEALTHY], 3).state == "pass"
    assert judge(lane, parse_slo(""), [HEALTHY], 3, interrupted=True).reasons == (
        "interrupted: the window is not complete",
    )
    assert judge(Lane(), parse_slo(""), [HEALTHY], None, interrupted=True).state == "fail", "and not invalid"


def test_notes_say_what_the_figures_leave_out() -> None:
    def told(records: list[Record], **options: object) -> str:
        return " ".join(summarize(run_of(records, **options))["notes"])

    assert told([record(k) for k in range(1000)]) == ""
    whole, guessed, short = record(), record(1), record(2)
    whole.t_last = whole.t_first
    assert "1 of 1 answers came in one piece" in told([whole]) and "one piece" not in told([whole], stream="no")
    guessed.counted = False
    assert "tokens of 1 answers: each message counts as one" in told([guessed])
    cut = told([record()], scenario="trace", rate="1", duration="10s")
    assert "the trace goes on: " in cut and "of its 60 requests come after 10 s" in cut
    ended = told([record()], scenario="trace", rate="1", duration="600s")
    assert "are means over 600 s: REQUESTS=60 without DURATION" in ended and "the trace goes on" not in ended
    assert "the trace" not in told([record()], scenario="trace", requests="60")
    short.completion_tokens = 4
    assert "1 of 1 answers were not as long" in told([short]) and "as long" not in told([short], respect_eos="yes")


@pytest.mark.parametrize("loop", [{}, {"rate": "", "users": "4"}])
def test_a_window_that_is_short_for_its_answers_is_noted(loop: dict[str, object]) -> None:
    """Nothing ends inside it without a warm-up, and the figures of a second look like a server's that is too slow."""

    def told(**options: object) -> str:
        return " ".join(summarize(run_of([record(k) for k in range(9)], **loop | options))["notes"])

    said = "a window of 1 s is short for answers of 1.0 s, too few of which end inside it"
    assert said in told(duration="1s") and "give DURATION=5s or more" in told(duration="1s")
    assert "window" not in told(duration="3s")
    assert "window" not in told(duration="1s", requests="9"), "it ends when the last answer does"
    assert summarize(run_of([waiting(0, 9.0)], duration="1s", **loop))["verdict"]["reasons"], "none ended: said there"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def reported(run: Run, directory: Path) -> dict[str, Any]:
    """The summary, which the files are written from."""
    summary = summarize(run)
    write_report(run, summary, directory)
    return summary


def test_a_disk_that_is_full_leaves_the_old_report_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported(run_of([record(0)]), tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def full(path: Path, text: str, **_: str) -> int:
        if "html" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, text, **_)

    real = Path.write_text
    monkeypatch.setattr(Path, "write_text", full)
    line = "report.html cannot be written to .* \\(No space left on device\\): make room"
    with pytest.raises(LoadtestError, match=line):
        reported(run_of([record(k) for k in range(9)]), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_report_is_complete_valid_and_self_contained(tmp_path: Path) -> None:
    records = [record(k, lane="grpc" if k % 2 else "sse") for k in range(40)]
    summary = reported(run_of(records, transport="both"), tmp_path)
    jsonschema.validate(json.loads((tmp_path / "summary.json").read_text()), SCHEMA)
    assert set(summary["gateway_cost"]) == {"ttft", "tpot"} and summary["server"]["streams_freed"] == 2
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert page.tags.count("svg") == 8 and "script" not in page.tags and page.links == []
    assert not re.search(r"https?://", html), "nothing to fetch"
    assert "t_first − t_sched" in html
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert len(lines) == 40 and {r.index for r in map(Record.from_json, lines)} == set(range(40))


def test_csv_is_what_the_other_files_say(tmp_path: Path) -> None:
    """And a server's error is never a spreadsheet's formula."""
    failed = record(39, "failed")
    failed.error = '=HYPERLINK("http://x","y"), in\ntwo lines'
    summary = reported(run_of([*(record(k) for k in range(39)), failed]), tmp_path)
    with (tmp_path / "requests.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [float(row["t_first"]) for row in rows] == [line["t_first"] for line in lines]
    assert list(rows[0]) == list(lines[0]) and rows[-1]["error"] == "'" + failed.error
    with (tmp_path / "stats.csv").open(newline="") as file:
        stats = {(row["transport"], row["figure"]): row for row in csv.DictReader(file)}
    assert float(stats["grpc", "ttft"]["p99"]) == summary["total"]["latency"]["ttft"]["p99"]
    assert float(stats["total", "tokens_per_s"]["value"]) == summary["total"]["tokens_per_s"]
    assert stats["total", "failed: engine"]["value"] == stats["total", "failed"]["value"] == "1"


def test_report_of_a_run_without_a_single_answer(tmp_path: Path) -> None:
    nothing = Record(0, "chat", "grpc", True, 1.0, 1.0, None, None, 2.0, "failed", "connect")
    summary = reported(run_of([nothing]), tmp_path)
    jsonschema.validate(summary, SCHEMA)
    assert summary["verdict"]["state"] == "fail" and "nothing measured" in (tmp_path / "report.html").read_text()


def test_a_growing_pile_of_streams_is_saturation() -> None:
    def stays(k: int, length: float) -> Record:
        one = record(k)
        one.t_end = one.t_sched + length
        return one

    steady = run_of([stays(k, 0.5) for k in range(40)])
    piling = run_of([stays(k, 0.5 + 0.2 * k) for k in range(40)])
    assert not saturation(steady)["saturated"] and saturation(piling)["saturated"]


def test_limits_stand_beside_what_was_measured() -> None:
    run = run_of([record(k, ttft=0.1 if k < 30 else 0.5) for k in range(40)])
    rows = limits(next(iter(run.lanes.values())), parse_slo("ttft=200ms,e2e.p99=60s,good=90%"))
    assert [(row["limit"], row["measured"], row["met"]) for row in rows[:1]] == [
        ("TTFT ≤ 200 ms (90%)", "75.0%", False)
    ]
    assert rows[1]["met"] and rows[2] == {"limit": "errors ≤ 0.0%", "measured": "0 / 40", "met": True}


def test_streaming_tab_has_rows_per_metric_and_none_in_aggregated() -> None:
    rows = streaming_rows({"grpc": lane_of([record(k) for k in range(5)])}, 3, 0.0)
    assert "3 running streams" in rows[0]["name"]
    ttft = next(r for r in rows if r["name"] == "grpc TTFT from send")
    assert ttft["count"] == 5 and float(ttft["p50"]) == pytest.approx(100, rel=0.01)


def test_percentiles_of_a_comparison_are_those_of_the_report() -> None:
    values = [float(k) for k in range(1, 24)]
    for percent in (50, 95):
        exact = Histogram.of(values).percentile(percent)
        assert percentile_of_rows(percent)(np.array([values]))[0] == pytest.approx(exact, rel=2e-4) and exact
