"""A run's figures and requests as CSV, for spreadsheets and data frames; times in seconds, as in the JSON files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from loadtest.record import Record

RATES = ("requests_per_s", "tokens_per_s", "goodput_per_s", "tokens_per_message")


def requests_csv(records: Iterable[Record]) -> str:
    """The columns are the keys of requests.jsonl."""
    return _csv([record.to_json() for record in records])


def stats_csv(summary: Mapping[str, Any]) -> str:
    """Long, so that many runs make one table: a line per latency, with its percentiles, and per count and rate."""
    lanes = summary["lanes"] | {"total": summary["total"]}
    return _csv(
        [
            {"transport": lane, "figure": name, **values}
            for lane, figures in lanes.items()
            for name, values in (
                *figures["latency"].items(),
                *((name, {"value": figures[name]}) for name in RATES),
                *((name, {"value": count}) for name, count in figures["counts"].items()),
                *((f"failed: {kind}", {"value": count}) for kind, count in figures["errors"].items()),
            )
        ]
        + [{"transport": "total", "figure": "measured_s", "value": summary["measured_s"]}]
    )


def _csv(rows: list[dict[str, Any]]) -> str:
    """All keys of all rows are columns, in the order in which they come."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A server's error text must not become a spreadsheet's formula (OWASP, "CSV Injection")."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
