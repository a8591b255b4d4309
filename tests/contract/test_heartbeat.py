"""A process beats while it runs, and ends with its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from contract.heartbeat import Heartbeat
from contract.paths import ROOT

CHILD = (
    "import sys, time, pathlib; from contract import heartbeat; heartbeat.start(pathlib.Path(sys.argv[1])); "
    "time.sleep(60)"
)
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(60)"


def test_a_process_whose_parent_was_killed_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.beat"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(path)], cwd=ROOT)
    until = time.monotonic() + 20
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    beat = Heartbeat(path)
    before = beat.count
    while beat.count == before and time.monotonic() < until:
        time.sleep(0.02)
    assert beat.count > before
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], 10)[1] == []
    beat.close()
