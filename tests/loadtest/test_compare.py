"""Two runs side by side: read back, compared, and refused where one is no run."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from loadtest import compare as comparing
from loadtest.compare import SavedRun
from loadtest.errors import LoadtestError
from loadtest.notes import FEW
from loadtest.stats import Interval
from tests.loadtest.test_figures import Page, record, reported, run_of


def test_compare_says_that_a_run_was_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        run = run_of([record(k) for k in range(40)])
        run.interrupted, run.ended = name == "b", run.plan.warmup + 4.0
        reported(run, tmp_path / name)
    comparing.compare(tmp_path / "a", tmp_path / "b", tmp_path / "out.html")
    said = capsys.readouterr().out
    assert "note: run B was interrupted after 4.0 s" in said and "run A was" not in said


def test_compare_reads_runs_back_and_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, ttft, seed in (("a", 0.1, 1), ("b", 0.2, 2)):
        reported(run_of([record(k, ttft=ttft + 0.001 * k) for k in range(40)], seed=seed), tmp_path / name)
    assert comparing.compare(tmp_path / "a", tmp_path / "b", tmp_path / "out.html") == 0
    said = capsys.readouterr().out
    assert "note: seed: A 1, B 2" in said
    row = next(line for line in said.splitlines() if line.startswith("TTFT from send p50"))
    assert "100.0 [" in row and row.rstrip().endswith("yes")
    assert Page((tmp_path / "out.html").read_text()).tags.count("svg") == 4


def test_compare_finds_no_difference_in_a_tail_that_few_requests_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 71 requests the 95th percentile's interval ends beyond the largest one."""
    for name, count, ttft in (("few", 71, 0.1), ("a", 72, 0.1), ("b", 72, 0.2)):
        reported(run_of([record(k, ttft=ttft + 0.0001 * k) for k in range(count)]), tmp_path / name)
    for name, verdict in (("few", "too few"), ("a", "yes")):
        comparing.compare(tmp_path / name, tmp_path / "b", tmp_path / "out.html")
        lines = capsys.readouterr().out.splitlines()
        assert (f"note: {FEW}" in lines) is (name == "few")
        ends = {line.split()[3]: line.rstrip() for line in lines if line.startswith("TTFT from send")}
        assert ends["p95"].endswith(verdict) and ends["mean"].endswith("yes") and ends["p50"].endswith("yes")


def test_a_regression_fails_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond the share that is allowed and beyond chance; faster, a little slower or too few says nothing."""
    for name, count, ttft in (("a", 80, 0.1), ("slower", 80, 0.12), ("faster", 80, 0.08), ("few", 3, 0.5)):
        reported(run_of([record(k, ttft=ttft + 0.0001 * k) for k in range(count)]), tmp_path / name)
    broken = [record(k, "failed" if k < 9 else "completed") for k in range(80)]
    reported(run_of(broken), tmp_path / "broken")
    reported(run_of([record(k, "failed") for k in range(80)]), tmp_path / "dead")

    def judged(name: str, worse: float) -> tuple[int, str]:
        code = comparing.compare(tmp_path / "a", tmp_path / name, tmp_path / "out.html", worse)
        return code, capsys.readouterr().out

    code, said = judged("slower", 0.05)
    assert code == 1 and "verdict: FAIL" in said and "TTFT from send p50 is 19.2% slower in B (allowed 5.0%)" in said
    assert judged("slower", 0.25)[0] == judged("faster", 0.05)[0] == judged("a", 0.0)[0] == 0
    assert judged("few", 0.05)[0] == 3 and "9 of 80 requests failed in B" in judged("broken", 0.5)[1]
    code, said = judged("dead", 0.5)
    assert code == 1 and "80 of 80 requests failed in B" in said, "without an answer there is nothing to compare"


@pytest.mark.parametrize("seed", [28, 40])
def test_a_dozen_differences_are_judged_as_a_dozen(seed: int) -> None:
    """Two runs of one server, one of whose figures is beyond its own 95 %, as in 14 of 100 such pairs."""

    def drawn(seed: int) -> SavedRun:
        rng = random.Random(seed)
        return SavedRun(Path("x"), {}, [record(k, ttft=rng.lognormvariate(-2, 0.5)) for k in range(80)])

    rows = comparing.rows_of(drawn(seed), drawn(seed + 1))
    assert any(row.change.low > 0 and row.ratio > 1.05 and not row.few for row in rows)
    assert comparing.regressions(rows, 0.05) == []


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    reported(run_of([record(k) for k in range(4)]), tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadtestError, match=r"^out: out\.html cannot be written to [^\n]+$"):
        comparing.compare(tmp_path / "a", tmp_path / "a", tmp_path / "file" / "out.html")


@pytest.mark.parametrize("damage", [None, "{", "[]", "[" * 100_000, '{"schema": "other"}'])
def test_compare_refuses_what_is_no_run(tmp_path: Path, damage: str | None) -> None:
    if damage is not None:
        (tmp_path / "summary.json").write_text(damage)
        (tmp_path / "requests.jsonl").write_text("")
    with pytest.raises(LoadtestError, match=r"^compare: [^\n]+$"):
        comparing.load(tmp_path)


def wrong_values(tree: object) -> Iterator[None]:
    """At each step another entry of ``tree`` is missing or of another type; afterwards it is as before."""
    if isinstance(tree, dict):
        for key, value in list(tree.items()):
            yield from wrong_values(value)
            for wrong in (None, "x", [], math.inf):
                tree[key] = wrong
                yield
            del tree[key]
            yield
            tree[key] = value


def test_a_run_with_anything_missing_or_of_another_type_is_compared_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another version or edited by hand: it was a traceback."""
    monkeypatch.setattr(comparing, "bootstrap_difference", lambda *_: Interval(0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(comparing, "_page", lambda *_: "")
    reported(run_of([record(k) for k in range(4)]), tmp_path)
    summary, requests = tmp_path / "summary.json", tmp_path / "requests.jsonl"
    whole, (first, *others) = json.loads(summary.read_text()), map(json.loads, requests.read_text().splitlines())
    del whole["environment"], whole["formulas"]
    refused = set()
    for _ in chain(wrong_values(whole), wrong_values(first)):
        summary.write_text(json.dumps(whole))
        requests.write_text("".join(json.dumps(row) + "\n" for row in (first, *others)))
        try:
            comparing.compare(tmp_path, tmp_path, tmp_path / "out.html", 0.05)
        except LoadtestError as error:
            refused.add(str(error))
    assert len(refused) > 20 and not any("\n" in line for line in refused)


def test_a_run_that_was_cut_off_between_two_lines_is_damaged(tmp_path: Path) -> None:
    reported(run_of([record(k) for k in range(40)]), tmp_path)
    lines = (tmp_path / "requests.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "requests.jsonl").write_text("".join(lines[:30]))
    with pytest.raises(LoadtestError, match=r"is damaged: requests.jsonl has 30 of 40 measured requests$"):
        comparing.load(tmp_path)


def test_a_server_may_say_anything_in_an_error(tmp_path: Path) -> None:
    failed = record(0, "failed")
    failed.error = "a\u2028b\u0085c"
    reported(run_of([failed, record(1)]), tmp_path)
    assert comparing.load(tmp_path).records[0].error == failed.error
