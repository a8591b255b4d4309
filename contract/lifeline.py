"""Processes that end with their launcher, whatever they are doing: the kernel kills them.

Within Triton's own functions a stub holds Python's interpreter, also while it waits for a Triton that was killed: no
thread of Python can end it then. (PR_SET_PDEATHSIG would, but fires when the *thread* that started the stub ends.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

NAME = "lifeline"  # in the run directory


class Lifeline:
    """Held by the launcher, which alone has the FIFO's writing end, until it ends in whatever way."""

    def __init__(self, run_dir: Path) -> None:
        os.mkfifo(run_dir / NAME, 0o600)
        self._end = os.open(run_dir / NAME, os.O_RDWR)  # not to wait for a reader


def hold_on(run_dir: Path) -> None:
    """End when the lifeline of ``run_dir`` is let go. A Triton started by hand has none: nothing happens then."""
    try:
        end = os.open(run_dir / NAME, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)  # instead of SIGIO
    fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):  # somebody holds the other end
        if not os.read(end, 1):
            os._exit(1)
