"""How often something has died lately, and how long to wait before restarting it."""

from __future__ import annotations

from collections import deque

WINDOW = 600.0  # seconds for which a death is remembered
AT_ONCE = 3  # so many deaths in a row are answered at once
STEADY = 30.0  # a process that lives this many seconds ends such a row: it is no crash loop
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0


class Deaths:
    """The deaths of the last ``WINDOW`` seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._row = 0
        self._started = float("-inf")

    def __len__(self) -> int:
        return len(self._times)

    def add(self, now: float) -> float:
        """Count a death; returns the seconds to wait before the next start."""
        self._times.append(now)
        while now - self._times[0] > WINDOW:
            self._times.popleft()
        self._row = 1 if now - self._started >= STEADY else self._row + 1
        extra = self._row - AT_ONCE
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (extra - 1)) if extra > 0 else 0.0
        self._started = now + pause
        return pause
