"""How far a sweep is: its plan at the start, then one line per rate, which a terminal keeps up to date."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from loadtest import console

START_S = 6.0  # a run's start and report, until the first one has shown what they take
ERASE = "\r\x1b[K"


class Progress:
    """``guess``: seconds that one rate takes, unless told otherwise by those that ended; ``most``: rates of a sweep."""

    def __init__(self, guess: float, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self.terminal = sys.stdout.isatty()
        self._guess, self._most, self._now = guess, most, now
        self._began = self._rate_began = now()
        self._rate, self._number = 0.0, 0

    @property
    def each(self) -> float:
        """Seconds that a rate takes: the mean of those that ended."""
        ended = self._number - 1
        return (self._rate_began - self._began) / ended if ended > 0 else self._guess

    def begin(self, rate: float) -> None:
        self._rate, self._number, self._rate_began = rate, self._number + 1, self._now()
        self._show()

    def tick(self) -> None:
        """Once a second while a rate is measured."""
        if self.terminal:
            self._show()

    def end(self) -> None:
        """Make room for the rate's figures."""
        if self.terminal:
            console.show(ERASE, end="")

    def line(self) -> str:
        now = self._now()
        spent = now - self._rate_began
        each = f"{spent:.0f} of " * self.terminal + f"about {self.each:.0f} s"
        left = max(self.each - spent, 0.0) + self.each * (self._most - self._number)
        return (
            f"rate {self._rate:g}/s, run {self._number} of at most {self._most}: {each}; "
            f"{clock(now - self._began)} since the start, at most {clock(left)} left"
        )

    def _show(self) -> None:
        console.show(f"{ERASE}{self.line()}" if self.terminal else self.line(), end="" if self.terminal else "\n")


def clock(seconds: float) -> str:
    """``12:05``: minutes and seconds; ``1:02:05`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
