"""The ways in which a server is asked to stop: Ctrl-C, SIGTERM and a terminal that closes."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import termios
import threading
from collections.abc import Callable
from types import FrameType

TERMINAL_POLL_MS = 1000  # how often to check whether a shell has moved the server to the background


def on_signals(react: Callable[[int, FrameType | None], None]) -> None:
    """Call ``react`` on SIGINT, SIGTERM and the closing of the terminal.

    The latter counts once, although both the shell and the kernel send SIGHUP. Under ``nohup`` the process outlives its
    terminal."""

    def hung_up(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        react(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, react)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hung_up)
        Terminal().when_closed(signal.SIGHUP)


class Terminal:
    """The terminal from which the process was started, if there is one.

    When it closes, the kernel tells only the session's leader, and a shell passes the signal on. Under
    ``ssh -t HOST make serve`` the leader is make, which does not: it waits for this process. A terminal that closes
    before this process looks for it leaves it none, as if there had never been one, but standard input has hung up."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._foreground = self._was_closed = False
        try:
            self._file = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
            self._foreground = self._is_foreground(self._file)
        except OSError:  # there is none
            self._was_closed = _has_hung_up(0)

    def is_closed(self, wait_ms: int = 0) -> bool:
        """False where there never was one."""
        if self._file is None:
            return self._was_closed
        watch = select.poll()
        watch.register(self._file, 0)  # POLLHUP and POLLERR are always reported
        return bool(watch.poll(wait_ms))

    def has_ended_us(self) -> bool:
        """Has it closed, and were we in its foreground? To be asked every second. (gevent's ``poll`` cannot tell.)"""
        if self._file is None:
            return self._was_closed
        try:
            self._foreground = self._is_foreground(self._file)
        except OSError:
            return self._foreground
        return False

    def when_closed(self, number: signal.Signals) -> None:
        """Send this process the signal ``number`` when the terminal closes.

        A server in the background outlives its terminal unless the shell tells it to end."""
        if self._was_closed:
            os.kill(os.getpid(), number)
        elif self._file is not None:
            threading.Thread(target=self._wait, args=(self._file, number), name="terminal", daemon=True).start()

    def _wait(self, file: int, number: signal.Signals) -> None:
        while not self.is_closed(TERMINAL_POLL_MS):
            with contextlib.suppress(OSError):  # it has just closed
                self._foreground = self._is_foreground(file)
        if self._foreground:
            os.kill(os.getpid(), number)

    @staticmethod
    def _is_foreground(file: int) -> bool:
        return os.tcgetpgrp(file) == os.getpgrp()


def _has_hung_up(stream: int) -> bool:
    """Whether a file descriptor is that of a terminal that has closed."""
    try:
        termios.tcgetattr(stream)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False
