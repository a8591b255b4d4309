"""Raises the limits on open files and threads as far as the hard limits allow, and reports it if that is too little."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from serving.launch.config import LaunchError

FEWEST_FILES = 4096
# An idle tritonserver has 71 open, a stream adds two or three; with fewer than these it dies without a word that helps.
TOO_FEW_FILES = 256
# A whole server has 100 on two cores; with fewer libraries abort, or segfault.
FEWEST_THREADS = 128


def allow_files() -> None:
    """Every stream is a file or two, and a shell's soft limit may be small. Raises ``LaunchError``."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= hard < TOO_FEW_FILES:
        raise LaunchError(
            f"ulimit -Hn is {hard}: the server needs {TOO_FEW_FILES} open files, and 2 or 3 more for each stream; "
            f"raise it to {FEWEST_FILES} (ulimit -n, systemd's LimitNOFILE=, docker run --ulimit nofile={FEWEST_FILES})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if 0 <= hard < FEWEST_FILES:  # RLIM_INFINITY is -1
        print(
            f"warning: ulimit -Hn is {hard}: connections beyond it are refused; raise it to {FEWEST_FILES} or more",
            flush=True,
        )


def allow_threads() -> None:
    """The limit is on all threads of a user, whatever they run; root has none. Raises ``LaunchError``."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    if os.getuid() and hard >= 0 and (used := _threads()) + FEWEST_THREADS > hard:
        raise LaunchError(
            f"ulimit -Hu is {hard}, and this user has {used} threads: the server needs {FEWEST_THREADS} more, on many "
            "cores some hundred; raise it (ulimit -u, systemd's LimitNPROC=, docker run --ulimit nproc=)"
        )


def _threads() -> int:
    """This user's, as far as they can be seen from here."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if process.stat().st_uid == os.getuid():
                count += sum(1 for _ in (process / "task").iterdir())
    return count
