"""What a generator process says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import gevent
import pytest

from loadtest import own_load

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


def spin() -> None:
    """Compute for 0.2 s of CPU time."""
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(("stall", "own"), [(lambda: time.sleep(0.2), False), (spin, True)], ids=["stopped", "busy"])
def test_a_stall_counts_for_all_the_looks_that_it_prevented(
    stall: Callable[[], None], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop stands still for a quarter of the window: the p99 of its lateness must say so, and whose fault it is."""
    monkeypatch.setattr(own_load, "LOOK_S", 0.002)
    monkeypatch.setattr(own_load, "STOOD_S", 0.1)
    began = time.monotonic()
    load = own_load.OwnLoad(lambda: time.monotonic() - began, 0.0, 0.8)
    watch = gevent.spawn(load.watch)
    gevent.sleep(0.3)
    stall()
    watch.join(timeout=5)
    figures = load.figures()
    assert watch.dead and figures["loop_lag_p99"] > 0.1
    assert 0 < figures["cpu"] < 1 and figures["cpu_s"] > 0 and 0 <= figures["machine"] <= 1
    assert (figures["own_lag_p99"] > 0.1) is own
    assert (figures["stood_s"] > 0.1) is not own


@pytest.mark.skipif(not own_load.queued_s(), reason="this kernel does not count the time in a run queue")
def test_waiting_for_a_core_is_no_work_of_its_own() -> None:
    """Two processes on one core: each computes half of the time and waits for the other half."""
    core = {min(os.sched_getaffinity(0))}
    other = subprocess.Popen([sys.executable, "-c", SPIN, *map(str, core)])
    before, allowed = own_load.queued_s(), os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, core)
        deadline = time.monotonic() + 20
        while own_load.queued_s() - before < 0.05 and time.monotonic() < deadline:
            pass
        assert own_load.queued_s() - before >= 0.05
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
