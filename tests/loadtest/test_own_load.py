"""What a generator process says of itself."""

from __future__ import annotations

import time

import gevent
import pytest

from loadtest import own_load


def test_a_stall_counts_for_all_the_looks_that_it_prevented(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop stands still for a quarter of the window: the p99 of its lateness must say so."""
    monkeypatch.setattr(own_load, "LOOK_S", 0.002)
    began = time.monotonic()
    own = own_load.OwnLoad(lambda: time.monotonic() - began, 0.0, 0.8)
    watch = gevent.spawn(own.watch)
    gevent.sleep(0.3)
    time.sleep(0.2)
    watch.join(timeout=5)
    figures = own.figures()
    assert watch.dead and figures["loop_lag_p99"] > 0.1
    assert 0 < figures["cpu"] < 1 and figures["cpu_s"] > 0
