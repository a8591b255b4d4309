"""The probe's findings: rows of a table, a file to send, an exit code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console  # `make facts` runs under any Python, which may have no rich

Status = Literal["pass", "fail", "differs"]  # fail: serving would break; differs: not as recorded, but serving works


@dataclass(frozen=True, slots=True)
class ProbeResult:
    check: str
    status: Status
    found: str
    remedy: str = ""


def judged(check: str, good: bool, found: str, remedy: str, *, breaks: bool = True) -> ProbeResult:
    return ProbeResult(check, "pass" if good else "fail" if breaks else "differs", found, "" if good else remedy)


def show(findings: Sequence[ProbeResult], console: Console) -> None:
    from rich.table import Table

    table = Table("check", "result", "found", "what to do", title="TensorRT-LLM probe", title_justify="left")
    for finding in findings:
        table.add_row(finding.check, finding.status, finding.found, finding.remedy)
    console.print(table)


def write(findings: Sequence[ProbeResult], path: Path) -> None:
    rows = [dataclasses.asdict(finding) for finding in findings]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> list[ProbeResult]:
    return [ProbeResult(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def exit_code(findings: Sequence[ProbeResult]) -> int:
    return int(any(finding.status == "fail" for finding in findings))
