"""How often something died lately, and how long to wait before it starts again."""

from __future__ import annotations

from collections import deque

AT_ONCE, WINDOW = 3, 600.0  # so many deaths within so many seconds are answered at once
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0


class Deaths:
    """Those of the last ``WINDOW`` seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._times)

    def add(self, now: float) -> float:
        """Count one; seconds to wait before the next start."""
        self._times.append(now)
        while now - self._times[0] > WINDOW:
            self._times.popleft()
        extra = len(self._times) - AT_ONCE
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (extra - 1)) if extra > 0 else 0.0
