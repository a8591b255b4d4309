"""Ties processes to their launcher: when it ends, the kernel kills them, whatever they are doing.

A stub inside one of Triton's own functions holds the GIL, even while it waits for a Triton that was killed, so no
Python thread could end it. (PR_SET_PDEATHSIG could, but it fires when the *thread* that started the stub ends.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

NAME = "lifeline"  # in the run directory


class Lifeline:
    """The write end of a FIFO, held by the launcher alone: it closes when the launcher ends, however that happens."""

    def __init__(self, run_dir: Path) -> None:
        os.mkfifo(run_dir / NAME, 0o600)
        self._end = os.open(run_dir / NAME, os.O_RDWR)  # O_WRONLY would wait for a reader


def hold_on(run_dir: Path) -> None:
    """Be killed when the lifeline of ``run_dir`` closes. Does nothing without one (a Triton started by hand)."""
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
