"""A killed Triton's directory in /tmp is removed, but only if it is certainly ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.launch import leftovers


@pytest.mark.parametrize(
    ("new", "gone"), [(["python_env_b"], True), (["python_env_b", "python_env_c"], False), ([], True)]
)
def test_one_that_came_with_our_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: list[str], gone: bool
) -> None:
    monkeypatch.setattr(leftovers, "TEMPORARY", tmp_path)
    run_dir = tmp_path / "run"
    for name in ("run", "python_env_a"):
        (tmp_path / name).mkdir()
    left = leftovers.Leftovers(run_dir, "")
    left.starting()
    for name in new:
        (tmp_path / name).mkdir()
    left.look()  # no stub yet
    (run_dir / "engine.pid").write_text("1")
    left.look()
    (tmp_path / "python_env_later").mkdir()
    left.look()
    left.remove()
    assert any((tmp_path / name).exists() for name in new) is not gone
    assert (tmp_path / "python_env_a").exists() and (tmp_path / "python_env_later").exists()


def test_one_that_is_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TEMPORARY", tmp_path)
    left = leftovers.Leftovers(tmp_path, "")
    left.starting()
    (tmp_path / "python_env_b" / "0").mkdir(parents=True)
    (tmp_path / "engine.pid").write_text("1")
    left.look()
    left.remove()
    assert (tmp_path / "python_env_b" / "0").exists()
