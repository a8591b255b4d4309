"""What a killed session leaves is removed by the next one; a living session's is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import session_dir
from serving.launch import rundir, shm
from serving.launch.config import LaunchError


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(shm, "DIRECTORY", tmp_path)
    return tmp_path


def test_leftovers_of_a_killed_session_go(folders: Path) -> None:
    directory, lock = rundir.create("qwen_7_")
    (directory / "engine.pid").write_text("999999999")
    (folders / "qwen_7_region").touch()
    (folders / "qwen_8_region").touch()
    lock.close()  # as the kernel does when its process is killed
    rundir.await_ending()
    assert [file.name for file in folders.iterdir()] == ["qwen_8_region"]


def test_a_session_that_was_killed_while_it_removed_its_directory_goes_too(folders: Path) -> None:
    directory, lock = rundir.create("qwen_7_")
    (directory / session_dir.LOCK).unlink()
    (directory / "ack_table").touch()
    lock.close()
    rundir.await_ending()
    assert not list(folders.iterdir())


def test_a_living_session_keeps_all(folders: Path) -> None:
    directory, lock = rundir.create("qwen_7_")
    (folders / "qwen_7_region").touch()
    rundir.await_ending()
    assert directory.is_dir() and (folders / "qwen_7_region").exists()
    lock.close()


def test_logs_that_cannot_be_written_are_told_before_anything_starts(folders: Path) -> None:
    """A checkout of another user's, for example."""
    with pytest.raises(LaunchError, match=r"no/\.run, where the logs go, cannot be written \(No such .*\): make it"):
        rundir.check_logs(folders / "no" / ".run")
    rundir.check_logs(folders)
    assert not list(folders.iterdir())
