"""A process beats while it runs, and ends with its parent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from contract.heartbeat import Heartbeat
from contract.paths import ROOT
from tests.waiting import until

CHILD = (
    "import sys, time, pathlib; from contract import heartbeat; heartbeat.start(pathlib.Path(sys.argv[1])); "
    "time.sleep(60)"
)
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(60)"


def test_a_process_whose_parent_was_killed_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.beat"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(path)], cwd=ROOT)
    until(path.exists)
    beat = Heartbeat(path)
    before = beat.count
    until(lambda: beat.count > before)
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], 10)[1] == []
    beat.close()


def test_a_heartbeat_knows_its_own_file(tmp_path: Path) -> None:
    """Whatever has taken its place: two stubs that start at once used to take the last one's file for theirs."""
    first = Heartbeat.create(tmp_path / "a.beat")
    second = Heartbeat.create(tmp_path / "a.beat")
    assert first.inode != second.inode == (tmp_path / "a.beat").stat().st_ino
    first.close()
    second.close()


@pytest.mark.parametrize("happens", ["the run directory is removed", "another stub beats there"])
def test_a_process_that_nobody_watches_any_more_ends(tmp_path: Path, happens: str) -> None:
    path = tmp_path / "run" / "a.beat"
    path.parent.mkdir()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT)
    until(path.exists)
    if happens.startswith("another"):
        Heartbeat.create(path).close()
    else:
        shutil.rmtree(path.parent)
    assert child.wait(20) == 1
