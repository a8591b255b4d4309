"""Replicas that end are started again, after pauses when they do so again and again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from deploy import replicas
from deploy.replicas import Replica

BROKEN = [sys.executable, "-c", "print('serve: the disk is full')"]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    def spawn(_: list[str], log: Path, __: dict[str, str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(BROKEN, stdout=file)

    monkeypatch.setattr(replicas, "spawn", spawn)
    return Replica(0, [1, 1, 1, 1], [], None, tmp_path / "replica0.log")


def test_the_fourth_death_in_a_row_waits(broken: Replica, capsys: pytest.CaptureFixture[str]) -> None:
    broken.start()
    for _ in range(6):
        assert broken.process
        broken.process.wait()
        broken.look()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "started again in 5 s" in lines[-1] and not any(" in " in line for line in lines[:-1])


def test_one_that_does_not_start_says_why(broken: Replica) -> None:
    broken.start()
    with pytest.raises(RuntimeError, match=r"replica 0 did not start: serve: the disk is full \(log: .*replica0.log\)"):
        broken.wait()


def test_one_that_cannot_be_started_is_tried_again(
    broken: Replica, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No process more is allowed for a while: the other replicas serve on."""
    broken.start()
    assert broken.process
    broken.process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(replicas, "spawn", Mock(side_effect=BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))))
        broken.look()
    assert "replica 0 cannot be started: Resource temporarily unavailable" in capsys.readouterr().out
    before = broken.process
    broken.look()
    assert broken.process is not before
    broken.process.wait()
