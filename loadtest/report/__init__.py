"""Write a run's three files: report.html for people, summary.json for machines, requests.jsonl for doubts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client.language import language
from loadtest import files
from loadtest.report.charts import charts_of
from loadtest.report.run_page import run_page
from loadtest.summary import Run


def write_report(run: Run, summary: dict[str, Any], directory: Path) -> None:
    """Raises ``LoadtestError`` when ``directory`` cannot take all three."""
    records = sorted(run.records, key=lambda r: (r.t_sched, r.index))
    contents = {
        "requests.jsonl": "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records),
        "summary.json": files.as_json(summary),
        "report.html": run_page(summary, charts_of(run), language()),
    }
    files.write(directory, contents)
