"""One run as its three readers see it: summary.json, the terminal and the page agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from loadtest.console import summary_text
from loadtest.record import Record
from loadtest.report.sentences import sentences
from loadtest.summary import summarize
from tests.loadtest.test_figures import SCHEMA, record, reported, run_of


def told(records: list[Record], directory: Path, **options: object) -> tuple[dict[str, Any], str, str]:
    """One run's summary as it was written, what the terminal says and the page."""
    summary = reported(run_of(records, **options), directory)
    jsonschema.validate(json.loads((directory / "summary.json").read_text()), SCHEMA)
    return summary, summary_text(summary), (directory / "report.html").read_text()


def test_there_is_goodput_only_where_a_single_request_has_a_limit(tmp_path: Path) -> None:
    """With percentile limits alone every request "met all limits" of a run that failed."""
    records = [record(k) for k in range(40)]
    summary, terminal, page = told(records, tmp_path / "percentiles", slo="ttft.p99=2ms,itl.p99=1ms")
    assert summary["verdict"]["state"] == "fail" and summary["total"]["goodput_per_s"] is None
    assert "good" not in summary["total"]["counts"] and "goodput" not in terminal and "met every" not in terminal
    cards, after = page.split("<h2>How it is counted</h2>")[0], page.split("<h2>The generator</h2>")[1]
    assert "goodput" not in cards + after
    _, terminal, _ = told(records, tmp_path / "none")
    assert "goodput" not in terminal
    summary, terminal, page = told(records, tmp_path / "both", slo="ttft=200ms,ttft.p99=2ms")
    assert f"goodput {summary['total']['goodput_per_s']:.2f}/s; 40 met every per-request limit" in terminal
    assert 'goodput/s<br><span class="soft">100% met' in page


def test_an_error_stands_beside_the_transport_that_had_it(tmp_path: Path) -> None:
    """A refused gRPC connection was shown with the gateway's address."""
    records = [record(k, "failed", lane=lane) for k, lane in enumerate(("grpc", "sse", "grpc"))]
    for one, port in zip(records, (8001, 8080, 8001), strict=True):
        one.error_kind, one.error = "connect", f"127.0.0.1:{port}: refused"
    summary, terminal, page = told(records, tmp_path / "both", transport="both")
    assert summary["lanes"]["grpc"]["error_examples"] == {"connect": "127.0.0.1:8001: refused"}
    for lane, own, other in (
        ("grpc", "2 × connect: 127.0.0.1:8001", "8080"),
        ("sse", "1 × connect: 127.0.0.1:8080", "8001"),
    ):
        said = terminal.split(f"\n{lane}, ms")[1].split(", ms")[0]
        assert own in said and other not in said
    assert "127.0.0.1:8001: refused" in page and "127.0.0.1:8080: refused" in page


def test_a_percentile_of_too_few_requests_says_that_it_is_the_longest_one(tmp_path: Path) -> None:
    records = [record(k, ttft=0.1 + 0.01 * k) for k in range(14)]
    summary, terminal, page = told(records, tmp_path / "few", slo="ttft.p99=2ms,itl.p50=9s")
    note = "p99 of 14 requests: the longest one"
    assert summary["limits"][0]["note"] == note and "note" not in summary["limits"][1]
    assert summary["verdict"]["reasons"][0] == f"ttft p99 is 230.0 ms (limit 2 ms); {note}"
    assert "p95, p99, p99.9 of 14 grpc requests: the longest one (marked *)" in summary["notes"]
    assert f"missed ({note})" in terminal and f"230.0 ms ({note})" in page and "longest of 14: 230.0 ms" in page
    row = next(line for line in terminal.splitlines() if line.startswith("TTFT from send"))
    assert row.split()[3:] == ["160.0", "220.0", "230.0*", "230.0*", "230.0*", "230.0"]
    assert "<td class=n>230.0*</td>" in page
    summary, terminal, page = told([record(k) for k in range(100)], tmp_path / "enough", slo="ttft.p99=2ms")
    assert "note" not in summary["limits"][0] and "p99 100.0 ms" not in terminal and "longest of" not in page


def test_a_gateway_cost_of_too_few_requests_proves_nothing(tmp_path: Path) -> None:
    """The p95 of 32 and 38 requests said that the gateway made answers faster, beyond chance."""

    def both(count: int) -> list[Record]:
        return [record(k, ttft=0.1 + 0.001 * k, lane=lane) for lane in ("grpc", "sse") for k in range(count)]

    summary, terminal, page = told([*both(32), record(40, lane="sse")], tmp_path / "few", transport="both")
    cost = summary["gateway_cost"]["ttft"]
    assert cost["p95"]["few"] and not cost["p50"]["few"]
    line = next(line for line in terminal.splitlines() if line.startswith("gateway cost, TTFT p95"))
    assert line.endswith(" ms, which proves nothing: 32 gRPC and 33 SSE requests, and a p95 takes 72 of each")
    assert "<td class=n>too few</td>" in page and "the difference proves nothing" in page
    summary, terminal, page = told(both(72), tmp_path / "enough", transport="both")
    assert not summary["gateway_cost"]["ttft"]["p95"]["few"] and "proves nothing" not in terminal + page


def test_metrics_of_another_server_are_noted_and_left_out() -> None:
    """An idle Triton's queue and KV stood in the report of a run that it never saw."""
    run = run_of([record(k) for k in range(3)])
    run.complete, run.server.ended = True, [7.0, 7.0]
    summary = summarize(run)
    (said,) = [note for note in summary["notes"] if "METRICS_PORT" in note]
    assert summary["server"] is None and "http://x/metrics is another's" in said and "0 streams, we 3: set" in said
    assert "它结束了 0 个流，我们有 3 个" in sentences("zh")(said)
    run.server.ended = [7.0, 9.0]
    assert summarize(run)["server"] is not None


def test_metrics_that_were_not_found_are_noted() -> None:
    run = run_of([record(k) for k in range(3)])
    assert not any("METRICS_PORT" in note for note in summarize(run)["notes"])
    run.server.points, run.server.freed, run.server.error = {}, [], "[Errno 111] Connection refused"
    said = "no queue and KV figures of the server: http://x/metrics gave none ([Errno 111] Connection refused)"
    assert f"{said}: set METRICS_PORT" in summarize(run)["notes"]
    run = run_of([record(k, lane="sse") for k in range(3)], transport="sse")
    run.server.points, run.server.freed, run.server.error = {}, [], "refused"
    assert not any("METRICS_PORT" in note for note in summarize(run)["notes"]), "another server may have none"
