"""Write a run's files: report.html for people, summary.json for machines, requests.jsonl for doubts, CSV for sheets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client.language import language
from loadtest import files
from loadtest.report.charts import charts_of
from loadtest.report.run_page import run_page
from loadtest.report.tables import requests_csv, stats_csv
from loadtest.summary import Run


def write_report(run: Run, summary: dict[str, Any], directory: Path) -> None:
    """Raises ``LoadtestError`` when ``directory`` cannot take them all."""
    records = sorted(run.records, key=lambda r: (r.t_sched, r.index))
    contents = {
        "requests.jsonl": "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records),
        "requests.csv": requests_csv(records),
        "stats.csv": stats_csv(summary),
        "summary.json": files.as_json(summary),
        "report.html": run_page(summary, charts_of(run), language()),
    }
    files.write(directory, contents)
