"""What asks a server to stop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType

LOOKS_MS = 1000  # between two looks whether a shell has moved the server to the background


def on_signals(react: Callable[[int, FrameType | None], None]) -> None:
    """Ctrl-C, SIGTERM and a terminal that closes, which counts once: its shell says so, and the kernel does again.
    Under ``nohup`` the process outlives its terminal."""

    def hung_up(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        react(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, react)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hung_up)
        _watch_terminal()


def _watch_terminal() -> None:
    """The kernel tells the session's leader that its terminal is gone, and a shell passes it on. Under
    ``ssh -t HOST make serve`` the leader is make, which waits for this process instead. A server in the background
    outlives its terminal, unless the shell tells it to end."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        foreground = _is_foreground(terminal)
    except OSError:  # there is none
        return

    def wait(foreground: bool) -> None:
        watch = select.poll()
        watch.register(terminal, 0)  # POLLHUP and POLLERR are always told
        while not watch.poll(LOOKS_MS):
            with contextlib.suppress(OSError):  # it closed just now
                foreground = _is_foreground(terminal)
        if foreground:
            os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=wait, args=(foreground,), name="terminal", daemon=True).start()


def _is_foreground(terminal: int) -> bool:
    return os.tcgetpgrp(terminal) == os.getpgrp()
