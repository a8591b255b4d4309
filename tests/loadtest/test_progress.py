"""A sweep that is silent for minutes looks like one that hangs."""

from __future__ import annotations

import sys

import pytest

from loadtest.progress import Progress, clock


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Clock:
    return Clock()


def test_a_pipe_gets_one_line_at_the_start_of_each_rate(now: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(70.0, 18, now)
    progress.begin(1)
    for _ in range(90):
        now.seconds += 1
        progress.tick()
    progress.end()
    progress.begin(2.5)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "rate 1/s, run 1 of at most 18: about 70 s; 0:00 since the start, at most 21:00 left",
        "rate 2.5/s, run 2 of at most 18: about 90 s; 1:30 since the start, at most 25:30 left",
    ]


def test_a_terminal_gets_one_line_that_is_kept_up_to_date(
    now: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(70.0, 2, now)
    progress.begin(1)
    now.seconds += 80
    progress.tick()
    progress.end()
    shown = capsys.readouterr().out
    assert "\n" not in shown and shown.count("\r\x1b[K") == 3 and shown.endswith("\r\x1b[K")
    assert "80 of about 70 s; 1:20 since the start, at most 1:10 left" in shown


def test_hours_are_told_from_minutes() -> None:
    assert [clock(s) for s in (0, 59.6, 725, 3725)] == ["0:00", "1:00", "12:05", "1:02:05"]
