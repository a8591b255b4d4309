"""A Triton that hangs on its way up is started again; one that takes its time is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from serving.launch import child, start_watch
from serving.launch.start_watch import StartWatch


@pytest.fixture
def seems(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    clock = iter(range(0, 10**6, 10))  # each look is ten seconds after the one before
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))

    def now(*true: str) -> None:
        for name in ("has_stopped", "awaits_child", "has_dead_child"):
            monkeypatch.setattr(child, name, lambda pid, name=name: name in true)

    now()
    return now


def test_what_takes_its_time_is_left_alone(seems: Callable[..., None]) -> None:
    watch = StartWatch()
    assert not any(watch.look(1) or watch.has_lost_a_stub(1) for _ in range(100))
    for _ in range(20):  # a short wait now and then
        seems("awaits_child")
        assert not watch.look(1)
        seems()
        assert not watch.look(1)


def test_a_triton_that_waits_for_a_stub_it_gave_up(seems: Callable[..., None]) -> None:
    """Seen on a host with a load of ten: the stub lived and waited for its first command."""
    watch = StartWatch()
    seems("awaits_child")
    assert next(why for _ in range(100) if (why := watch.look(1))).startswith("Triton has given up a model process")
    assert start_watch.WAIT_SECONDS >= 20, "engines that failed close their workers in this time"


def test_a_stopped_one_waits_for_nothing(seems: Callable[..., None]) -> None:
    watch = StartWatch()
    seems("has_stopped", "awaits_child", "has_dead_child")
    assert next(why for _ in range(100) if (why := watch.look(1))).endswith("has been stopped for 6 s")
    assert not any(watch.has_lost_a_stub(1) for _ in range(10))


def test_a_stub_that_ended(seems: Callable[..., None]) -> None:
    watch = StartWatch()
    seems("has_dead_child")
    assert not watch.look(1) and not watch.has_lost_a_stub(1) and watch.has_lost_a_stub(1)
