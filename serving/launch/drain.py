"""Drains the gateway and the engine before Triton is told to stop, and reports how many streams are still open."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from contract.ack_table import END, FILE_NAME, REFUSE, AckTable
from serving.launch import child, logs

SAY_SECONDS = 3.0  # between two lines about the streams that are still open
LAST_EVENT_SECONDS = 2.0  # for a last event of every open stream, after a second signal
FLUSH_SECONDS = 1.0  # an engine's last errors get this long to reach their clients


class OpenStreams:
    """The streams that a stopping server still has, for whoever waits for the prompt. Silent where there are none."""

    def __init__(self, run_dir: Path, seconds: float = SAY_SECONDS) -> None:
        self._table: AckTable | None = None
        with contextlib.suppress(OSError, ValueError):  # Triton did not come so far
            self._table = AckTable(run_dir / FILE_NAME)
        self._seconds, self._next = seconds, time.monotonic() + seconds
        self._open, self._waiting = self._count(), True
        self._were_any = self._open > 0

    def look(self, *, patient: bool = True) -> None:
        """Call often: says every few seconds how many streams are open. ``patient``: are they waited for?"""
        if not self._waiting:
            return
        self._open, self._waiting = self._count(), patient
        if time.monotonic() >= self._next and self._open:
            self._next = time.monotonic() + self._seconds
            logs.say(f"still open: {_streams(self._open)}")

    def close(self, left: int) -> None:
        """Say how it went. ``left``: streams that the engine had at last. The gateway had told its own goodbye by then,
        and some were gone: those that were open when the patience ended have ended early."""
        if ended := max(left, self._open):
            logs.say(f"ended early: {_streams(ended)}")
        elif self._were_any:
            logs.say("no stream is open any more")
        if self._table:
            self._table.close()
            self._table = None

    def _count(self) -> int:
        return self._table.open_sequences if self._table else 0


def _streams(count: int) -> str:
    return f"{count} stream{'s' * (count != 1)}"


def await_gateway(
    process: subprocess.Popen[bytes], deadline: float, patient: Callable[[], bool], signals: Callable[[], int]
) -> None:
    """Let the gateway end by itself until ``deadline`` or until ``patient()`` is false; a second one of ``signals``
    gives open streams time for a last event, a third one none."""
    while process.poll() is None and time.monotonic() < deadline and patient():
        time.sleep(0.05)
    if signals() == 2 and process.poll() is None:
        process.send_signal(signal.SIGINT)
        until = time.monotonic() + LAST_EVENT_SECONDS
        while process.poll() is None and time.monotonic() < until and signals() < 3:
            time.sleep(0.05)
    child.stop(process, 0)


def drain(run_dir: Path, deadline: float, patient: Callable[[], bool], alive: Callable[[], bool]) -> int:
    """Refuse new requests and give open streams until ``deadline``, or until ``patient()`` is false.
    ``alive``: whether there is an engine that can end them. Returns how many streams had to be ended.

    After SIGTERM Triton 2.51 refuses the ensemble's own inner requests too, so every gRPC stream would stall; and it
    counts a stream whose client went away as in flight for ever. The ack table has the true count.
    """
    try:
        ack_table = AckTable(run_dir / FILE_NAME)
    except (OSError, ValueError):
        return 0
    ack_table.closing = REFUSE
    _await_streams(ack_table, deadline, lambda: patient() and alive())
    left = ack_table.open_sequences
    ack_table.closing = END
    _await_streams(ack_table, time.monotonic() + FLUSH_SECONDS, alive)
    ack_table.close()
    return left


def _await_streams(ack_table: AckTable, deadline: float, patient: Callable[[], bool]) -> None:
    """Wait until no stream is open. The engine counts ten times a second, so a single zero is not enough."""
    zeros = 0
    while zeros < 5 and time.monotonic() < deadline and patient():
        time.sleep(0.05)
        zeros = 0 if ack_table.open_sequences else zeros + 1
