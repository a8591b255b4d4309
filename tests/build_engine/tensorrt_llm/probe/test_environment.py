"""What the probe says about packages, imports and GPU memory, with planted differences."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from build_engine.tensorrt_llm.probe import environment


def test_the_packages_of_this_python_are_written_down(tmp_path: Path) -> None:
    found = environment.packages(tmp_path)
    assert found.status == "pass" and "numpy" in (tmp_path / "freeze.txt").read_text()


def test_a_module_that_does_not_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("raise RuntimeError('built for another numpy')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    rows = list(environment.imports({"json": "json", "half": "half_installed", "none": "not_there_at_all"}))
    assert [row.status for row in rows] == ["fail", "fail", "pass"]
    assert "built for another numpy" in rows[0].found and "not_there_at_all" in rows[1].found


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [(500, 510, "pass"), (500, 9_000, "fail"), (None, 5, "differs"), (5, None, "differs")],
)
def test_memory_that_stays_is_a_failure(before: int | None, after: int | None, status: str) -> None:
    assert environment.freed("x", before, after).status == status
