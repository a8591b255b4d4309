"""Where results go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from loadtest import files
from loadtest.errors import LoadtestError


def test_runs_that_end_in_the_same_second_get_a_directory_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20261126-120000")
    names = [str(files.fresh("loadtest")) for _ in range(3)]
    assert names == [f"reports/loadtest-20261126-120000{more}" for more in ("", "-2", "-3")]


def test_a_place_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reports").touch()
    with pytest.raises(LoadtestError, match=r"^out: reports/loadtest-.* cannot be made \(Not a directory\)"):
        files.fresh("loadtest")
