"""What the gateway reads about a restart: the launcher's word, and when it expects to be back."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.launch import readiness as module
from serving.launch.readiness import Readiness
from serving.outage import Outage


def test_the_gateway_reads_what_the_launcher_said(tmp_path: Path) -> None:
    path = tmp_path / "readiness"
    readiness = Readiness(path)
    readiness.say("restarting: it died", 1000.0)
    assert Outage.load(path.read_text()) == ("restarting: it died", 1000.0)
    first = path.stat().st_ino
    readiness.say("restarting: it died", 1000.0)
    assert path.stat().st_ino == first
    readiness.say("restarting: it died", 1020.0)
    assert Outage.load(path.read_text()).back_at == 1020.0
    readiness.say("")
    assert Outage.load(path.read_text()) == Outage()


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def monotonic(self) -> float:
        return self.now


def test_a_restart_takes_the_pause_and_what_the_last_start_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "readiness", Clock()
    monkeypatch.setattr(module, "time", clock)

    def seconds(pause: float = 0.0) -> float:
        readiness.restarting("it died", pause)
        return Outage.load(path.read_text()).back_at - clock.now

    readiness = Readiness(path)
    readiness.launching()
    readiness.restarting("it died")
    assert Outage.load(path.read_text()) == ("restarting: it died", 0.0), "nobody knows how long the first one takes"
    clock.now += 8
    readiness.say("")
    clock.now += 100
    readiness.say("")
    assert seconds() == 11.0 and seconds(20.0) == 31.0
    readiness.launching()
    clock.now += 4
    assert seconds() == 11.0, "a start that failed tells nothing"
    readiness.say("")
    assert seconds() == 6.0
