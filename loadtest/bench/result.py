"""What a benchmark leaves behind: a table on the terminal, and a JSON file with the command, machine and versions."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contract.paths import ROOT
from loadtest import files
from loadtest.environment import describe
from loadtest.errors import EXIT_OK, EXIT_USAGE, LoadtestError

RESULTS = ROOT / "results"
Row = dict[str, Any]


def run(
    target: str,
    arguments: argparse.Namespace,
    title: str,
    take: Callable[[], list[Row]],
    *,
    columns: Mapping[str, str] | None = None,
    verdict: Callable[[list[Row], dict[str, Any]], dict[str, Any]] | None = None,
    **facts: Any,
) -> int:
    """Take the figures, show ``columns`` (name -> heading; default: all) and write ``arguments.out``. ``verdict`` sees
    the rows and the environment; what it returns is shown and written beside them. Returns the exit code."""
    about = environment(target, arguments, **facts)
    try:
        rows = take()
    except LoadtestError as error:
        sys.stderr.write(f"{target}: {error}\n")
        return EXIT_USAGE
    columns = columns or {name: name for name in rows[0]}
    show_table(title, list(columns.values()), [[row.get(name) for name in columns] for row in rows])
    more = verdict(rows, about) if verdict else {}
    for name, value in more.items():
        print(f"{name}: {', '.join(value) or 'none'}")
    try:
        print(f"written to {write(arguments.out, about, rows, **more)}")
    except LoadtestError as error:
        sys.stderr.write(f"{target}: {error}\n")
        return EXIT_USAGE
    return EXIT_OK


def environment(target: str, arguments: argparse.Namespace | None = None, **facts: Any) -> dict[str, Any]:
    """Where and how the figures are taken; call it before the run. ``target`` is the make target."""
    given = " ".join(sys.argv[1:])
    used = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()} if arguments else {}
    return {
        "command": f"make {target}" + (f" ARGS='{given}'" if given else ""),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **describe(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "arguments": used,
        **facts,
    }


def write(path: Path, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """``{"environment", "rows", …}`` as JSON; directories are made. Raises ``LoadtestError``."""
    files.write(path.parent, {path.name: files.as_json({"environment": about, "rows": rows, **more})})
    return path


def cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def show_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], width: int = 150) -> None:
    """Words to the left, numbers to the right."""
    table = Table(title=title)
    for k, name in enumerate(head):
        words = all(isinstance(row[k], str) for row in rows)
        table.add_column(name, justify="left" if words else "right")
    for row in rows:
        table.add_row(*map(cell, row))
    Console(width=width).print(table)
