"""Locust's own command with what we mend in it."""

from __future__ import annotations

import os
import subprocess
import sys

from contract.paths import ROOT
from loadtest import locust_process


def test_a_child_that_is_long_gone_has_ended() -> None:
    pid = os.posix_spawnp("true", ["true"], dict(os.environ))
    assert locust_process.waitpid(pid, 0) == (pid, 0)
    assert locust_process.waitpid(pid, os.WNOHANG) == (pid, 0), "and again, when nobody knows it any more"


SET_CLOCK = """
import inspect, re, time
from loadtest import locustfile
from locust import runners

assert set(re.findall(r"\\btime[.](\\w+)", inspect.getsource(runners))) == {"time"}, "more of `time` than we replace"
before = runners.time.time()
time.time = lambda: 1e12
assert 0 <= runners.time.time() - before < 3600
"""


def test_a_clock_that_is_set_is_no_lost_master() -> None:
    subprocess.run(
        [sys.executable, "-c", SET_CLOCK], cwd=ROOT, check=True
    )  # locust patches the process that imports it
