"""The engine's threads, also those of its libraries, have short time slices; their policy and niceness stay."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from contract.paths import ROOT
from serving.runtimes.openvino.timeslice import SLICE_NS

LINUX = tuple(int(part) for part in platform.release().split(".")[:2])
LOOK = """
import ctypes, os, threading
from serving.runtimes.openvino.timeslice import SYS_SCHED_SETATTR, SchedAttr, shorten

def look():
    found = SchedAttr()
    number = SYS_SCHED_SETATTR[os.uname().machine] + 1  # sched_getattr
    assert ctypes.CDLL(None).syscall(number, 0, ctypes.byref(found), ctypes.sizeof(found), 0) == 0
    print(found.sched_runtime, found.sched_policy, found.sched_nice)

os.nice(3)
shorten()
look()
thread = threading.Thread(target=look)
thread.start()
thread.join()
"""


@pytest.mark.skipif(LINUX < (6, 12), reason="this Linux takes no thread's own slice")
def test_threads_started_later_have_short_slices_too() -> None:
    seen = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    nice = os.getpriority(os.PRIO_PROCESS, 0) + 3
    assert seen.stdout.splitlines() == [f"{SLICE_NS} {os.SCHED_OTHER} {min(nice, 19)}"] * 2
