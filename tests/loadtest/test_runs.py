"""Whole runs, as a user starts them, against the calibrated server. No assertion depends on a quiet machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from loadtest.stats import quantile
from tests.loadtest.mock import ROOT, Mock, loadtest, started
from tests.loadtest.test_figures import SCHEMA

RAN = (0, 3)  # 3: the machine was too busy to measure, which these tests do not mind
SHORT = ("--duration", "2s", "--warmup", "0.5s", "--output-tokens", "12", "--seed", "5")


@pytest.fixture(scope="module")
def mock() -> Iterator[Mock]:
    with started("--ttft-ms", "40", "--spread", "1", "--itl-ms", "10") as one:
        yield one


def conserved(counts: dict[str, int]) -> bool:
    return counts["scheduled"] == sum(counts[name] for name in ("completed", "failed", "cancelled", "in_flight"))


def test_both_transports_two_workers(mock: Mock, tmp_path: Path) -> None:
    mock.get("/reset")
    options = (*mock.ports, *SHORT, "--rate", "16", "--transport", "both")
    two = loadtest(tmp_path / "two", *options, "--workers", "2", "--slo", "ttft=60s,good=50%")
    assert two.code in RAN, two.output
    truth = sorted(row["first"] for row in mock.get("/truth"))
    one = loadtest(tmp_path / "one", *options)
    assert one.code in RAN, one.output
    jsonschema.validate(two.summary, SCHEMA)
    for run in (one, two):
        total, lanes = run.summary["total"], run.summary["lanes"]
        assert conserved(total["counts"]) and total["counts"]["completed"] == total["counts"]["scheduled"] > 20
        assert total["counts"]["length_mismatches"] == 0 and set(lanes) == {"grpc", "sse"}
        assert min(lane["counts"]["completed"] for lane in lanes.values()) > 5
    assert {w["worker"] for w in two.summary["generator"]["workers"]} == {0, 1}
    measured = sorted(r["t_first"] for r in two.requests)
    apart = [ours - theirs for ours, theirs in zip(measured, truth, strict=True)]  # of two clocks: always the same
    assert quantile(apart, 90) - quantile(apart, 10) < 0.01, "first tokens arrived when the server sent them"
    sent = [
        {(r["index"], r["t_sched"], r["transport"], r["completion_tokens"]) for r in x.requests} for x in (one, two)
    ]
    assert sent[0] == sent[1], "one schedule, however many workers"
    assert "verdict" in one.output and "gateway cost" in one.output and (two.directory / "report.html").is_file()


@pytest.mark.parametrize(
    "load", [("--rate", "30"), ("--users", "3", "--scenario", "code"), ("--rate", "30", "--workers", "2"),
             ("--users", "5", "--workers", "2", "--transport", "both", "--scenario", "code")],
)  # fmt: skip
def test_a_number_of_requests_ends_the_run(load: tuple[str, ...], mock: Mock, tmp_path: Path) -> None:
    """Neither one more nor one less, each to its end, warm-up apart; the throughput is theirs until the last ended."""
    options = ("--requests", "21", "--warmup", "0.5s", "--output-tokens", "12")
    run = loadtest(tmp_path, *mock.ports, *options, *load)
    assert run.code in RAN and "21 of 21 requests in" in run.output, run.output
    total, measured = run.summary["total"], [r for r in run.requests if r["measured"]]
    assert total["counts"]["completed"] == total["counts"]["window_completed"] == len(measured) == 21
    assert run.summary["measured_s"] == pytest.approx(max(r["t_end"] for r in measured) - 0.5, abs=1e-5)
    assert total["requests_per_s"] == pytest.approx(21 / run.summary["measured_s"])
    assert total["counts"]["window_tokens"] == 21 * 12 and total["counts"]["warmup"] > 0


def test_whichever_comes_first_of_a_number_and_a_time(mock: Mock, tmp_path: Path) -> None:
    run = loadtest(tmp_path, *mock.ports, *SHORT, "--requests", "5000", "--users", "2")
    assert run.code in RAN and "of 5000 requests were sent: the run ended first" in run.output, run.output


def test_users_who_leave_free_their_slot(mock: Mock, tmp_path: Path) -> None:
    options = ("--users", "6", "--duration", "2s", "--warmup", "0s", "--output-tokens", "40", "--scenario", "cancel")
    run = loadtest(tmp_path, *mock.ports, *options, "--transport", "both")
    assert run.code in RAN, run.output
    counts = run.summary["total"]["counts"]
    assert conserved(counts) and counts["cancelled"] > 0 and counts["failed"] == 0
    assert run.summary["plan"]["loop"] == "closed"
    left = [r for r in run.requests if r["outcome"] == "cancelled"]
    assert all(0 < r["completion_tokens"] < r["requested_tokens"] for r in left)
    server = run.summary["server"]  # on a busy machine the last token may be out before its user has left
    assert 0 < server["streams_freed"] <= server["we_left"] == len(left)


def test_usage_at_the_end_only_still_counts_every_token(tmp_path: Path) -> None:
    with started("--ttft-ms", "20", "--itl-ms", "5", "--plain-usage") as mock:
        run = loadtest(tmp_path, *mock.ports, *SHORT, "--rate", "5", "--transport", "sse")
    assert run.code in RAN, run.output
    assert {(r["completion_tokens"], r["messages"]) for r in run.requests} == {(12, 12)}


def test_a_stall_shows_in_an_open_loop(tmp_path: Path) -> None:
    with started("--ttft-ms", "20", "--itl-ms", "5", "--stall-at", "0.5", "--stall-for", "1.2") as mock:
        mock.get("/reset")
        run = loadtest(
            tmp_path, *mock.ports, "--rate", "10", "--duration", "2s", "--warmup", "0s", "--output-tokens", "5"
        )
    assert run.summary["total"]["latency"]["ttft_sched"]["p90"] > 0.5


def test_server_dies_mid_run(tmp_path: Path) -> None:
    with started("--ttft-ms", "20", "--itl-ms", "50", "--die-at", "1") as mock:
        mock.get("/reset")
        run = loadtest(
            tmp_path, *mock.ports, "--rate", "20", "--duration", "2s", "--warmup", "0s", "--output-tokens", "30"
        )
    assert run.code != 0 and "Traceback" not in run.output, run.output
    total = run.summary["total"]
    assert conserved(total["counts"]) and total["counts"]["failed"] > 10
    assert set(total["errors"]) <= {"connect", "cut_short"} and {"connect", "cut_short"} <= set(total["errors"])
    assert (tmp_path / "report.html").is_file() and "connect" in run.output


def test_a_full_queue_is_counted_by_its_name(tmp_path: Path) -> None:
    with started("--refuse") as mock:
        run = loadtest(tmp_path, *mock.ports, *SHORT, "--rate", "10")
    assert run.code in (1, 3) and set(run.summary["total"]["errors"]) == {"queue_full"}


@contextlib.contextmanager
def long_run(mock: Mock, directory: Path, workers: int) -> Iterator[subprocess.Popen[str]]:
    """A run of a minute in a process group of its own, with streams in flight."""
    command = [sys.executable, "-m", "loadtest", "run", *mock.ports, "--rate", "8", "--duration", "60s"]
    command += ["--warmup", "0s", "--output-tokens", "500", "--out", str(directory), "--workers", str(workers)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: busy(mock, 8))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("first", ["everybody", "a worker", "a terminal that closes"])
def test_interrupted_run_reports_what_was_in_flight(first: str, mock: Mock, tmp_path: Path) -> None:
    with long_run(mock, tmp_path, 2) as process:
        if first == "a worker":  # the order in which a terminal's Ctrl-C arrives is anyone's guess
            for worker in psutil.Process(process.pid).children():
                worker.send_signal(signal.SIGINT)
            time.sleep(0.5)
        for number in [signal.SIGHUP] * 2 if "closes" in first else [signal.SIGINT]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)  # as a terminal does; of a closed one the shell and the kernel tell
        output, _ = process.communicate(timeout=30)
    summary = json.loads((tmp_path / "summary.json").read_text())
    total = summary["total"]
    assert summary["interrupted"] and conserved(total["counts"]) and total["counts"]["in_flight"] > 5, output
    assert "Traceback" not in output and "interrupted after" in output
    assert 0 < summary["measured_s"] < 30
    assert total["tokens_per_s"] == pytest.approx(total["counts"]["window_tokens"] / summary["measured_s"])
    assert total["tokens_per_s"] > 20, "divided by the time that passed, not by the minute that was planned"


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_again_and_again_ends_at_once_without_a_word(workers: int, mock: Mock, tmp_path: Path) -> None:
    with long_run(mock, tmp_path, workers) as process:
        deadline = time.monotonic() + 15
        while process.poll() is None and time.monotonic() < deadline:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.02)
        output, _ = process.communicate(timeout=1)
        assert process.returncode == 130 and "Traceback" not in output and "KeyboardInterrupt" not in output, output
        wait_for(lambda: gone(process.pid), 30)


def test_ctrl_c_before_the_run_has_begun_ends_it_without_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # that never answers
        ports = ("--grpc-port", str(server.getsockname()[1]), "--out", str(tmp_path))
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest", "run", *ports],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with server.accept()[0]:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT and output == b""


def gone(group: int) -> None:
    """Raises ``OSError`` while a process of the group is alive."""
    alive = [p for p in psutil.process_iter() if group_of(p.pid) == group and p.status() != psutil.STATUS_ZOMBIE]
    if alive:
        raise OSError(f"still there: {alive}")


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_a_model_that_is_not_ready_is_said(mock: Mock, tmp_path: Path) -> None:
    run = loadtest(tmp_path, *mock.ports, "--model", "other")
    assert run.code == 2 and "'other' is not ready" in run.output and run.output.count("\n") == 1


def fetch(url: str, form: dict[str, str] | None = None) -> Any:
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        return answer.read().decode()


def test_web_ui_has_a_live_streaming_tab_and_honest_aggregates(mock: Mock, tmp_path: Path) -> None:
    from serving.host.ports import free_ports

    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "loadtest", "run", "--ui", "--web-port", str(port), *mock.ports, *SHORT]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--out", str(tmp_path / "run")], cwd=ROOT, stdout=log, stderr=log)
    try:
        page = wait_for(lambda: fetch(url))
        form = {"user_count": "2", "spawn_rate": "2", "host": "127.0.0.1"}
        mistakes = {
            "requests: 'x' is not": {"requests": "x"},
            "run-time: 9s would cut": {"run_time": "9s"},
            "spawn-rate (ramp up): 20 users at 2 a second would": {"user_count": "20"},
        }
        for said, wrong in mistakes.items():
            answer = json.loads(fetch(f"{url}/swarm", form | wrong))
            assert not answer["success"] and answer["message"].startswith(said), "and nothing starts"
        shown, _ = json.JSONDecoder().raw_decode(page.partition("templateArgs = ")[2])
        assert shown["extended_tabs"] == [{"title": "Streaming", "key": "streaming"}]
        fetch(f"{url}/swarm", form | {"rate": "6", "duration": "10m"})
        wait_for(lambda: runs(f"{url}/stats/requests"))
        edit = json.loads(fetch(f"{url}/swarm", form | {"slo": "ttft=1s"}))
        assert not edit["success"] and "stop it, then start another" in edit["message"], "or another browser's start"
        fetch(f"{url}/stop", form)
        (tmp_path / "run/summary.json").unlink()
        fetch(f"{url}/swarm", form | {"rate": "6", "run_time": "", "duration": "2s"})
        wait_for(lambda: (tmp_path / "run/summary.json").read_text())
        counts = json.loads((tmp_path / "run/summary.json").read_text())["total"]["counts"]
        assert wait_for(lambda: fetch(f"{url}/streaming/stats.csv")) == (tmp_path / "run/stats.csv").read_text()
        stats = wait_for(lambda: answers(f"{url}/stats/requests", counts["completed"] + counts["warmup"]))
    finally:
        process.terminate()
        process.wait(timeout=20)
    rows = {row["name"]: row for row in stats["extended_stats"][0]["data"]}
    assert rows["grpc TTFT from send"]["count"] == counts["completed"] > 0 and float(rows["grpc ITL"]["p99"]) > 0


def runs(url: str) -> None:
    """Raises ``OSError`` until the Streaming tab has rows: Locust keeps an answer for two seconds."""
    if not json.loads(fetch(url))["extended_stats"][0]["data"]:
        raise OSError("no run has begun")


def answers(url: str, requests: int) -> dict[str, Any]:
    """Locust's figures once they say ``requests``: it keeps an answer for two seconds."""
    found: dict[str, Any] = json.loads(fetch(url))
    (total,) = [row["num_requests"] for row in found["stats"] if row["name"] == "Aggregated"]
    if total != requests:
        raise OSError(f"{total} requests, not {requests}")
    return found


def busy(mock: Mock, streams: int) -> int:
    running = int(mock.get("/running"))
    if running < streams:
        raise OSError(f"{running} streams run")
    return running


def wait_for(what: Any, seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return what()
        time.sleep(0.2)
    return what()
