"""Which cluster runs in a directory: one at a time, found by ``make cluster-roll``."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import IO

FILE = "pid"
ASKED = "roll"  # lies there from ``roll`` on until the cluster has seen it: a terminal that closes sends SIGHUP too


def claim(run: Path) -> IO[str] | None:
    """The directory's process id file, locked as long as it is open; ``None`` when another cluster has it."""
    file = (run / FILE).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    (run / ASKED).unlink(missing_ok=True)  # one before was asked
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def roll(run: Path) -> int:
    """Asks the cluster that runs there to replace its replicas. Its process id, or 0 when none runs. Raises
    ``PermissionError`` where it is another user's."""
    try:
        with (run / FILE).open() as file:
            pid = int(file.read() or 0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                (run / ASKED).touch()
                os.kill(pid, signal.SIGHUP)
                return pid
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0
    return 0  # what wrote it has ended


def is_asked_to_roll(run: Path) -> bool:
    """Whether ``roll`` has asked since the last look."""
    try:
        (run / ASKED).unlink()
    except FileNotFoundError:
        return False
    return True
