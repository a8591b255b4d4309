"""A thread that gives way does so whatever the niceness of its process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contract.paths import ROOT

PROGRAM = """
import os, threading
from serving.background import give_way

os.nice({nice})
if os.geteuid() == 0:
    os.setuid(65534)  # root may lower a niceness, others may not
def work():
    give_way()
    print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(os.getpriority(os.PRIO_PROCESS, os.getpid()))
"""


@pytest.mark.parametrize("nice", [0, 10, 19])
def test_the_thread_alone_becomes_nicer(nice: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(nice=nice)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)
    assert not done.stderr
    thread, process = map(int, done.stdout.split())
    assert thread == min(19, process + 5)
