"""Write a run's three files: report.html for people, summary.json for machines, requests.jsonl for doubts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client.language import language
from loadtest.report.charts import charts_of
from loadtest.report.run_page import run_page
from loadtest.summary import Run, summarize


def write_report(run: Run, directory: Path) -> dict[str, Any]:
    """The summary, after writing everything into ``directory`` (made when missing)."""
    directory.mkdir(parents=True, exist_ok=True)
    summary = summarize(run)
    records = sorted(run.records, key=lambda r: (r.t_sched, r.index))
    with (directory / "requests.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    (directory / "report.html").write_text(run_page(summary, charts_of(run), language()), encoding="utf-8")
    return summary
