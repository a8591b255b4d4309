"""``make strategies``: the five cures for a slow LLM service, as one table and one chart from runs on this machine.

Engine, server and generator share the machine, so read the ratios. Writes results/strategies.json and
reports/strategies.html.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from loadtest.bench.strategies.cures import CURES, Setting, default_setting
from loadtest.bench.strategies.row import Row, Side
from loadtest.console import show
from loadtest.environment import describe
from loadtest.errors import EXIT_LIMITS_MISSED, EXIT_OK, LoadtestError
from loadtest.report import page

JSON, HTML = Path("results/strategies.json"), Path("reports/strategies.html")
HEAD = ("cure", "measure", "before", "after", "times better", "claim", "note")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.strategies", description=__doc__)
    parser.add_argument("--model", default="synthetic-0.5b", help="checkpoint directory, hub id or synthetic shape")
    parser.add_argument("--engines", default="engines/strategies", help="where the engines are built")
    args = parser.parse_args()
    setting = default_setting(args.model, Path(args.engines))
    rows: list[Row] = []
    failures: list[str] = []
    for cure in CURES:
        failures += attempt(cure, setting, rows)
    rows.sort(key=lambda row: row.cure)
    write(rows, args.model, failures)
    show(f"\n{table(rows)}\n\n{JSON}, {HTML}")
    return EXIT_LIMITS_MISSED if failures else EXIT_OK


def attempt(cure: Callable[[Setting], Iterator[Row]], setting: Setting, rows: list[Row]) -> list[str]:
    """Add the cure's rows; what kept it from being measured, if anything did. The others can still be measured."""
    try:
        rows.extend(cure(setting))
    except LoadtestError as error:
        sys.stderr.write(f"strategies: {error}\n")
        return [str(error)]
    return []


def table(rows: list[Row]) -> str:
    """Columns for a terminal; the claims are in the page."""
    lines = [[row.cure, row.measure, side(row.before), side(row.after), f"{row.ratio:.2f}×"] for row in rows]
    lines.insert(0, list(HEAD[:5]))
    widths = [max(len(line[k]) for line in lines) for k in range(5)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def side(one: Side) -> str:
    return f"{one.value:.4g} {one.unit} ({one.label})"


def write(rows: list[Row], model: str, failures: list[str]) -> None:
    data = {
        "environment": describe(),
        "model": model,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "failures": failures,
        "rows": [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    for path in (JSON, HTML):
        path.parent.mkdir(exist_ok=True)
    JSON.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    HTML.write_text(html(rows, model, failures), encoding="utf-8")


def html(rows: list[Row], model: str, failures: list[str]) -> str:
    hardware = describe()
    lead = f"{model}; {hardware['gpu'] or hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"
    cells = [[r.cure, r.measure, side(r.before), side(r.after), f"{r.ratio:.2f}", r.claim, r.note] for r in rows]
    commands = "\n".join(f"{r.cure}, {r.measure}\n  {r.before.command}\n  {r.after.command}" for r in rows)
    parts = [f'<p class="soft">{escape(lead)}</p>', bars(rows), page.table(HEAD, cells, words=len(HEAD))]
    parts += [f"<p>not measured: {escape(failure)}</p>" for failure in failures]
    parts.append(f"<h2>Commands</h2><pre>{escape(commands)}</pre>")
    return page.page("Five cures for a slow LLM service, measured here", parts)


def bars(rows: list[Row]) -> str:
    """How many times better each cure made it; the line marks 1, no change."""
    if not rows:
        return ""
    height, left, scale = 24, 420, 640 / max(1.0, *(row.ratio for row in rows))
    parts = []
    for k, row in enumerate(rows):
        y, width = k * height, max(1.0, row.ratio * scale)
        label = escape(f"{row.cure}: {row.measure}")[:70]
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{label}</text>')
        parts.append(f'<rect x="{left}" y="{y + 4}" width="{width:.1f}" height="14" fill="#2b6cb0"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 15}">{row.ratio:.1f}×</text>')
    end = len(rows) * height
    parts.append(f'<line class="mark" x1="{left + scale:.1f}" x2="{left + scale:.1f}" y1="0" y2="{end}"/>')
    return f'<svg viewBox="0 0 1130 {end}" role="img" aria-label="times better">{"".join(parts)}</svg>'


if __name__ == "__main__":
    sys.exit(main())
