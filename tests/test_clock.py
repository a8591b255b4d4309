"""A clock that is set, or jumps, changes no duration: the clock of day names moments and does nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from contract.paths import ROOT

PACKAGES = ("client", "contract", "serving", "build_engine", "loadtest", "deploy")
NAMED = {  # file -> how often it asks for the time of day, and nothing but a moment depends on the answer
    "serving/gateway/api/operations.py": 2,  # ``created`` and ``timestamp`` of answers
    "serving/gateway/api/endpoints.py": 1,  # ``created``
    "build_engine/tensorrt_llm/build.py": 1,  # when an engine was built
    "build_engine/staging.py": 1,  # the age of folders
    "build_engine/verify/gate.py": 1,  # when a report was made
    "loadtest/controller.py": 1,  # second 0 of a run, which workers on several hosts share
    "loadtest/worker.py": 1,  # the same, read once and turned into the monotonic clock
}


def asks(path: Path) -> Iterator[ast.Attribute]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            if (owner, node.attr) in {("time", "time"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}:
                yield node


def test_the_clock_of_day_measures_no_duration() -> None:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    found = {str(path.relative_to(ROOT)): len(list(asks(path))) for path in files}
    assert {name: count for name, count in found.items() if count} == NAMED
