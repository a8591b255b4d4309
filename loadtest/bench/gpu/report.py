"""Rounds to medians, medians to a table, a chart and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("tokens_per_s", "spread", "ttft_ms.p50", "ttft_ms.p99", "tpot_ms.p50", "tpot_ms.p99", "itl_ms.p50",
           "itl_ms.p99", "cpu_ms_per_1k", "of_limit", "rounds", "errors")  # fmt: skip
COLORS = {"transformers": "#999999", "vllm-offline": "#4e79a7", "vllm-serve": "#f28e2b", "ours-grpc": "#59a14f",
          "ours-gateway": "#b07aa1"}  # fmt: skip


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
    for name in ("ttft_ms", "tpot_ms", "itl_ms"):
        with_it = [run[name] for run in good if run.get(name)]
        if with_it:
            row[name] = {q: round(statistics.median(run[q] for run in with_it), 3) for q in with_it[0]}
    cpus = [run["cpu_s"] / run["tokens"] * 1e6 for run in good if run.get("cpu_s")]
    if cpus:
        row["cpu_ms_per_1k"] = round(statistics.median(cpus), 1)
    return row


def table(rows: Sequence[dict[str, Any]]) -> Table:
    made = Table(title="bench-gpu: medians")
    for name in ("precision", "streams", "contender", *COLUMNS):
        made.add_column(name.replace("_ms.", " "), justify="left" if name == "contender" else "right")
    for row in rows:
        cells = [row["precision"], row["streams"], row["contender"], *(value(row, column) for column in COLUMNS)]
        made.add_row(*("" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells))
    return made


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    names = ("precision", "streams", "contender", *COLUMNS)
    lines = ["| " + " | ".join(name.replace("_ms.", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row["precision"], row["streams"], row["contender"], *(value(row, column) for column in COLUMNS)]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def show(rows: Sequence[dict[str, Any]]) -> None:
    Console(width=200).print(table(rows))


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Grouped bars of tokens/s as SVG: a panel per precision, a group per number of streams."""
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    panels = [_panel([row for row in rows if row["precision"] == p], p, 20 + 430 * i) for i, p in enumerate(precisions)]
    names = list(dict.fromkeys(row["contender"] for row in rows))
    legend = "".join(
        f'<rect x="{20 + 140 * i}" y="8" width="12" height="12" fill="{COLORS.get(name, "#000")}"/>'
        f'<text x="{37 + 140 * i}" y="18">{name}</text>'
        for i, name in enumerate(names)
    )
    width = max(40 + 430 * len(precisions), 40 + 140 * len(names))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="340" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{legend}{"".join(panels)}</svg>\n'
    )


def _bar(row: dict[str, Any], x: float, width: float, top: float) -> str:
    height = 240 * row["tokens_per_s"] / top
    return (
        f'<rect x="{x:.1f}" y="{300 - height:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{COLORS.get(row["contender"], "#000")}">'
        f"<title>{row['contender']}: {row['tokens_per_s']:g}</title></rect>"
    )


def _panel(rows: Sequence[dict[str, Any]], title: str, left: int) -> str:
    top = max((row.get("tokens_per_s", 0.0) for row in rows), default=1.0) or 1.0
    levels = sorted({row["streams"] for row in rows})
    parts = [f'<text x="{left}" y="45" font-weight="bold">{title}: tokens/s by streams</text>']
    group = 400 / max(1, len(levels))
    for i, level in enumerate(levels):
        bars = [row for row in rows if row["streams"] == level and "tokens_per_s" in row]
        width = (group - 14) / max(1, len(bars))
        parts += [_bar(row, left + group * i + j * width, width - 2, top) for j, row in enumerate(bars)]
        best = max((row["tokens_per_s"] for row in bars), default=0.0)
        parts.append(f'<text x="{left + group * i}" y="316">{level}</text>')
        parts.append(f'<text x="{left + group * i}" y="{294 - 240 * best / top:.1f}">{best:,.0f}</text>')
    return "".join(parts)
