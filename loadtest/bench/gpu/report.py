"""Rounds to medians, medians to a table, a chart and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from loadtest.bench import result
from loadtest.report.bars import BarGroup, render_bars

COLUMNS = ("tokens_per_s", "spread", "ttft_ms.p50", "ttft_ms.p99", "tpot_ms.p50", "tpot_ms.p99", "itl_ms.p50",
           "itl_ms.p99", "goodput_per_s", "cpu_ms_per_1k", "of_limit", "rounds", "errors")  # fmt: skip
HEAD = ("precision", "sampling", "load", "contender", *(name.replace("_ms.", " ") for name in COLUMNS))
NAMED_ONLY = ("vllm-serve-rust", "vllm-serve-interval")  # contenders that are measured where they are asked for
# in the order of rows and bars
CONTENDERS = ("transformers", "vllm-offline", "vllm-serve", *NAMED_ONLY, "ours-grpc", "ours-gateway")


def value(row: dict[str, Any], path: str) -> Any:
    """``"ttft_ms.p50"`` of a row; None where it has none."""
    found: Any = row
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row from the rounds of one contender at one level. ``spread``: (max - min) / median of tokens/s."""
    good = [run for run in runs if "tokens_per_s" in run]
    row: dict[str, Any] = {"rounds": len(good), "errors": sum(int(run.get("errors", 0)) for run in runs)}
    if not good:
        return row | {"first_error": next((run["first_error"] for run in runs if "first_error" in run), "no run")}
    speeds = [run["tokens_per_s"] for run in good]
    row["tokens_per_s"] = round(statistics.median(speeds), 1)
    row["spread"] = round((max(speeds) - min(speeds)) / row["tokens_per_s"], 4)
    for name in ("requests_per_s", "goodput_per_s"):
        if any(name in run for run in good):
            row[name] = round(statistics.median(run[name] for run in good if name in run), 2)
    for name in ("ttft_ms", "tpot_ms", "itl_ms"):
        with_it = [run[name] for run in good if run.get(name)]
        if with_it:
            row[name] = {q: round(statistics.median(run[q] for run in with_it), 3) for q in with_it[0]}
    cpus = [run["cpu_s"] / run["tokens"] * 1e6 for run in good if run.get("cpu_s")]
    if cpus:
        row["cpu_ms_per_1k"] = round(statistics.median(cpus), 1)
    return row


def cells(row: dict[str, Any]) -> list[Any]:
    return [
        row["precision"],
        row["sampling"],
        row["load"],
        row["contender"],
        *(value(row, column) for column in COLUMNS),
    ]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join("" if cell is None else str(cell) for cell in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def show(rows: Sequence[dict[str, Any]]) -> None:
    result.show_table("bench-gpu: medians", HEAD, [cells(row) for row in rows], width=200)


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Bars of tokens/s as SVG: a group per precision and number of streams, a bar per contender."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if "tokens_per_s" in row:
            label = f"{row['precision']}, {row['sampling']}, {row['load']}"
            groups.setdefault(label, {})[row["contender"]] = row["tokens_per_s"]
    return render_bars("tokens/s", [BarGroup(*item) for item in groups.items()], standalone=True)
