"""The private directory of one serving session, and what killed sessions left behind.

A session holds a lock on a file in its directory. Whoever gets the lock of another one knows that its launcher is gone,
in whatever container that ran.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

from serving.launch import child

PREFIX, LOCK = "qwen-serve-", "lock"
SHM = Path("/dev/shm")
ENDING_SECONDS = 20.0  # a dead launcher's Triton drains and ends in this time
# Triton's Python backend starts its stubs with a line of bash that has no quotes, and the Python in them decodes paths
# as ASCII.
PLAIN = re.compile(r"[\w./+,@%=-]+", re.ASCII)


def parent() -> Path:
    """The first plain one that can be written to; after su XDG_RUNTIME_DIR may be another user's, or gone."""
    for directory in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()):
        if PLAIN.fullmatch(directory) and os.access(directory, os.W_OK):
            return Path(directory)
    return Path("/tmp")


def plain(path: Path, directory: Path, name: str) -> Path:
    """``path``; if Triton could not bear its characters, a link to it in the run directory."""
    if PLAIN.fullmatch(str(path)):
        return path
    link = directory / name
    if not link.is_symlink():
        link.symlink_to(path)
    return link


def create(shm_prefix: str) -> tuple[Path, IO[str]]:
    """A new directory and its lock, held until the file is closed; the file names the session's shared memory."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent()))
    lock = (directory / LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.write(shm_prefix)
    lock.flush()
    return directory, lock


def await_ending() -> None:
    """Remove what killed sessions left; if one of them is still ending, wait for its processes, which hold ports."""
    said, until = False, time.monotonic() + ENDING_SECONDS
    for directory in parent().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / LOCK).open("r+") as lock:
            if lock_is_free(lock):
                while any(map(child.is_alive, _pids(directory))) and time.monotonic() < until:
                    if not said:
                        print(
                            "an earlier server, whose launcher was killed, is still ending: waiting for it", flush=True
                        )
                        said = True
                    time.sleep(0.1)
                remove_shm(lock.read())
                shutil.rmtree(directory, ignore_errors=True)


def lock_is_free(lock: IO[str]) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_shm(prefix: str) -> None:
    """What a killed stub leaves in /dev/shm."""
    for file in SHM.glob(f"{prefix}*") if prefix else ():
        file.unlink(missing_ok=True)


def _pids(directory: Path) -> list[int]:
    return [int(text) for file in directory.glob("*.pid") if (text := file.read_text()).isdecimal()]
