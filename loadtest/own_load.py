"""How busy a generator process is itself: the lateness of its event loop, and its CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from loadtest.histogram import Histogram

LOOK_S = 0.02


class OwnLoad:
    """Of this process, over the measured window: from ``opens`` to ``closes``, in seconds by ``now``."""

    def __init__(self, now: Callable[[], float], opens: float, closes: float) -> None:
        self._now, self._opens, self._closes = now, opens, closes
        self._lag = Histogram()
        self._cpu_before = 0.0
        self._window: list[tuple[float, float]] = []  # (CPU seconds, clock) at its start and its end

    def watch(self) -> None:
        """Run it in a greenlet. One long stall counts for all the looks that it prevented."""
        self._sleep_until(0.0)
        self._cpu_before = time.process_time()
        self._sleep_until(self._opens)
        self._window.append((time.process_time(), time.monotonic()))
        while self._now() < self._closes:
            due = time.monotonic() + LOOK_S
            gevent.sleep(LOOK_S)
            late = max(0.0, time.monotonic() - due)
            self._lag.record(late)
            for k in range(1, int(late / LOOK_S) + 1):
                self._lag.record(late - k * LOOK_S)
        self._window.append((time.process_time(), time.monotonic()))

    def figures(self) -> dict[str, float]:
        """``cpu``: share of one core, in the window so far; ``cpu_s``: CPU seconds since second 0; ``loop_lag_p99``."""
        return {
            "cpu": self._cpu_share(),
            "cpu_s": time.process_time() - self._cpu_before if self._cpu_before else 0.0,
            "loop_lag_p99": self._lag.percentile(99) or 0.0,
        }

    def _cpu_share(self) -> float:
        if not self._window:
            return 0.0
        cpu, clock = self._window[0]
        cpu_now, clock_now = self._window[1] if len(self._window) > 1 else (time.process_time(), time.monotonic())
        return (cpu_now - cpu) / (clock_now - clock) if clock_now > clock else 0.0

    def _sleep_until(self, t: float) -> None:
        gevent.sleep(max(0.0, t - self._now()))
