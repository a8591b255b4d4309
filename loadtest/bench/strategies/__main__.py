"""``make strategies``: five mitigations for a slow LLM service, measured on this machine: one table, one chart.

Engine, server and generator share the machine, so read the ratios. Writes results/strategies.json and
reports/strategies.html.
"""

from __future__ import annotations

import contract.program

import dataclasses
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from contract.errors import OperatorError
from loadtest.arguments import Arguments
from loadtest.bench import result
from loadtest.bench.strategies.effect import Effect, Measurement
from loadtest.bench.strategies.mitigations import MITIGATIONS, EngineSet, default_engines
from loadtest.console import show
from loadtest.errors import EXIT_LIMITS_MISSED, EXIT_OK, EXIT_USAGE, LoadtestError
from loadtest.report import page
from loadtest.report.bars import BarGroup, render_bars

JSON, HTML = Path("results/strategies.json"), Path("reports/strategies.html")
HEAD = ("mitigation", "measure", "before", "after", "times better", "claim", "note")


def main() -> int:
    parser = Arguments(prog="strategies", description=__doc__)
    parser.add_argument(
        "--model", default="synthetic-0.5b", help="checkpoint directory, GGUF file, smollm2 or a synthetic shape"
    )
    parser.add_argument("--engines", default="engines/strategies", help="where the engines are built")
    args = parser.parse_args()
    try:
        engines = default_engines(args.model, Path(args.engines))
    except OperatorError as error:
        parser.exit(EXIT_USAGE, f"{parser.prog}: {error}\n")
    about = result.environment("strategies", args, model=args.model)
    rows: list[Effect] = []
    failures: list[str] = []

    def keep(row: Effect) -> None:
        """Write after each row: an end in the middle, minutes later, loses none that stands."""
        rows.append(row)
        rows.sort(key=lambda row: row.mitigation)
        write(rows, about, failures)

    for mitigation in MITIGATIONS:
        failures += attempt(mitigation, engines, keep)
    write(rows, about, failures)
    show(f"\n{table(rows)}\n\n{JSON}, {HTML}")
    return EXIT_LIMITS_MISSED if failures else EXIT_OK


def attempt(
    mitigation: Callable[[EngineSet], Iterator[Effect]], engines: EngineSet, keep: Callable[[Effect], None]
) -> list[str]:
    """``keep`` the mitigation's rows as they come; why it could not be measured, if so. The others still can."""
    try:
        for row in mitigation(engines):
            keep(row)
    except LoadtestError as error:
        sys.stderr.write(f"strategies: {error}\n")
        return [str(error)]
    return []


def table(rows: list[Effect]) -> str:
    """Columns for a terminal; the claims are in the page."""
    lines = [[row.mitigation, row.measure, side(row.before), side(row.after), f"{row.ratio:.2f}×"] for row in rows]
    lines.insert(0, list(HEAD[:5]))
    widths = [max(len(line[k]) for line in lines) for k in range(5)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def side(one: Measurement) -> str:
    return f"{one.value:.4g} {one.unit} ({one.label})"


def write(rows: list[Effect], about: dict[str, Any], failures: list[str]) -> None:
    data = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
    result.write(JSON, about, data, failures=failures)
    HTML.parent.mkdir(exist_ok=True)
    HTML.write_text(html(rows, about, failures), encoding="utf-8")


def html(rows: list[Effect], about: dict[str, Any], failures: list[str]) -> str:
    lead = f"{about['model']}; {about['gpu'] or about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB"
    cells = [[r.mitigation, r.measure, side(r.before), side(r.after), f"{r.ratio:.2f}", r.claim, r.note] for r in rows]
    commands = "\n".join(f"{r.mitigation}, {r.measure}\n  {r.before.command}\n  {r.after.command}" for r in rows)
    parts = [f'<p class="soft">{escape(lead)}</p>', bars(rows), page.table(HEAD, cells, words=len(HEAD))]
    parts += [f"<p>not measured: {escape(failure)}</p>" for failure in failures]
    parts.append(f"<h2>Commands</h2><pre>{escape(commands)}</pre>")
    return page.page("Five mitigations for a slow LLM service, measured here", parts)


def bars(rows: list[Effect]) -> str:
    """The improvement of each row as a factor; the line marks 1, no change."""
    groups = [BarGroup(f"{row.mitigation}: {row.measure}", {"": row.ratio}) for row in rows]
    return render_bars("improvement", groups, unit="×", mark=1.0)


if __name__ == "__main__":
    sys.exit(main())
