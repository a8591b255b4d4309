"""The plan as people see it."""

from __future__ import annotations

import pytest

from build_engine import __main__


def test_a_narrow_terminal_loses_no_figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert __main__.main(["plan", "--gpu", "h100"]) == 0
    shown = capsys.readouterr().out
    assert "GiB/token" not in shown and "KiB/token" in shown and "…" not in shown
