"""What dead servers left in /dev/shm is told from what lives by its name and by who has it open."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from serving.launch import rundir, shm

NOBODY = 999_999_999  # above every PID


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shm, "DIRECTORY", tmp_path)
    return tmp_path


def region(folder: Path, launcher: int, namespace: str = "") -> Path:
    name = shm.prefix().replace(f"_{os.getpid()}_", f"_{launcher}_")
    if namespace:
        name = f"qwen_{launcher}_{namespace}_"
    file = folder / f"{name}70c090e1-1927"
    file.write_bytes(b"x")
    return file


def test_a_region_of_a_dead_launcher_goes_with_the_next_start_though_no_run_directory_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Triton that was starting when its launcher was killed made it after the sweep."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    left = region(folder, NOBODY)
    rundir.await_ending()
    assert not left.exists()


def test_what_lives_or_cannot_be_judged_stays(folder: Path) -> None:
    stays = [
        region(folder, os.getpid()),
        region(folder, NOBODY, "4026531000"),  # of a container that shares /dev/shm
        region(folder, NOBODY, shm.UNKNOWN),
        folder / f"qwen_{NOBODY}_70c090e1-1927",  # an older version's
        folder / "triton_python_backend_shm_region_70c090e1",
    ]
    for file in stays[-2:]:
        file.touch()
    shm.sweep()
    assert all(file.exists() for file in stays)


def test_a_region_that_a_process_has_open_stays(folder: Path) -> None:
    left = region(folder, NOBODY)
    with left.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        shm.sweep()
        assert left.exists()
    shm.sweep()
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_region_stays(folder: Path) -> None:
    left = region(folder, NOBODY)
    os.chown(left, 65534, 65534)
    shm.sweep()
    assert left.exists()


def test_where_proc_does_not_tell_the_namespace_nothing_is_judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "PROC", folder / "nowhere")
    left = region(folder, NOBODY)
    shm.sweep()
    assert left.exists() and f"_{shm.UNKNOWN}_" in left.name
