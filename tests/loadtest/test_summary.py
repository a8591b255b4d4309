"""One run as its three readers see it: summary.json, the terminal and the page agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from loadtest.console import summary_text
from loadtest.record import Record
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
