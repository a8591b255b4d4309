"""How busy a generator process is itself, and how long its machine kept it waiting: CPU time, run queue, event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gevent
import psutil

from loadtest.histogram import Histogram

LOOK_S = 0.02
STOOD_S = 0.5  # Ctrl-Z, a frozen container: a p99 over a minute does not show it, latencies and throughput are wrong
SCHEDSTAT = Path("/proc/thread-self/schedstat")  # nanoseconds on a core and in a run queue, slices


def queued_s() -> float:
    """Seconds for which this thread has been ready to run and had no core; 0 where the kernel does not count them."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _machine() -> tuple[float, float]:
    """(seconds, seconds of them idle) of all cores of this machine. What a hypervisor took away counts as busy."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    busy = (getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return sum(busy) + idle, idle


@dataclass(frozen=True, slots=True)
class Moment:
    """Running totals in seconds, but ``clock``."""

    clock: float
    cpu: float
    queued: float
    machine: float
    idle: float


def moment() -> Moment:
    return Moment(time.monotonic(), time.process_time(), queued_s(), *_machine())


def share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


class OwnLoad:
    """Of this process, over the measured window: from ``opens`` to ``closes``, in seconds by ``now``."""

    def __init__(self, now: Callable[[], float], opens: float, closes: float) -> None:
        self._now, self._opens, self._closes = now, opens, closes
        self._lag, self._own_lag = Histogram(), Histogram()
        self._stood = self._cpu_before = 0.0
        self._window: list[Moment] = []  # its start and its end

    def watch(self) -> None:
        """Run it in a greenlet. One long stall counts for all the looks that it prevented."""
        self._sleep_until(0.0)
        self._cpu_before = time.process_time()
        self._sleep_until(self._opens)
        self._window.append(moment())
        while self._now() < self._closes:
            due, cpu, queued = time.monotonic() + LOOK_S, time.process_time(), queued_s()
            gevent.sleep(LOOK_S)
            late = max(0.0, time.monotonic() - due)
            # Only its own computing counts: not the wait for a core, nor a machine that stood still.
            own = max(0.0, min(time.process_time() - cpu, late - (queued_s() - queued)))
            idle = late - (time.process_time() - cpu) - (queued_s() - queued)
            self._stood += idle if idle > STOOD_S else 0.0
            for k in range(int(late / LOOK_S) + 1):
                self._lag.record(late - k * LOOK_S)
                self._own_lag.record(own - k * LOOK_S)
        self._window.append(moment())

    def figures(self) -> dict[str, float]:
        """In the window so far: ``cpu``, this process's share of one core; ``queued``, the share of time for which it
        was ready and had no core; ``machine``, how busy all cores were; ``loop_lag_p99`` in seconds and
        ``own_lag_p99``, how late its own work alone would have made the loop; ``stood_s``: how long it neither computed
        nor waited for a core. ``cpu_s``: CPU seconds since second 0."""
        return {
            **self._shares(),
            "cpu_s": time.process_time() - self._cpu_before if self._cpu_before else 0.0,
            "loop_lag_p99": self._lag.percentile(99) or 0.0,
            "own_lag_p99": self._own_lag.percentile(99) or 0.0,
            "stood_s": self._stood,
        }

    def _shares(self) -> dict[str, float]:
        if not self._window:
            return dict.fromkeys(("cpu", "queued", "machine"), 0.0)
        first, last = self._window[0], self._window[1] if len(self._window) > 1 else moment()
        seconds, cores = last.clock - first.clock, last.machine - first.machine
        return {
            "cpu": share(last.cpu - first.cpu, seconds),
            "queued": share(last.queued - first.queued, seconds),
            "machine": share(cores - (last.idle - first.idle), cores),
        }

    def _sleep_until(self, t: float) -> None:
        gevent.sleep(max(0.0, t - self._now()))
