"""Children that nobody here started are asked for their exit codes; our own are left to whoever started them."""

from __future__ import annotations

import subprocess
import sys

INHERITS = """
import ctypes, os, subprocess, sys, time
import psutil
from serving.host import orphans

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, what process 1 of a container is by itself
orphans.reap([])  # no child at all
zombie = lambda pid: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
left = [int(subprocess.check_output(["sh", "-c", "sleep 0 >/dev/null & echo $!"])) for _ in range(3)]
while not all(map(zombie, left)):
    time.sleep(0.01)
orphans.reap([None])
assert not any(map(psutil.pid_exists, left))
own = subprocess.Popen(["sh", "-c", "exit 7"])
while not zombie(own.pid):
    time.sleep(0.01)
orphans.reap([own])
assert own.wait() == 7
"""


def test_orphans_are_reaped_and_own_children_are_not() -> None:
    subprocess.run([sys.executable, "-c", INHERITS], check=True)
