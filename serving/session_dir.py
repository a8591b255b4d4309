"""A process's private directory, and those of processes that were killed before they could remove theirs.

The owner holds a lock on a file in its directory. The kernel releases it when the owner is gone, whatever container
that ran in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = "lock"
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre, some FUSE: there nothing counts as left over


def create(parent: Path, prefix: str, note: str = "") -> tuple[Path, IO[str]]:
    """A new directory and its lock, held until the file is closed. ``note``: what ``left_over`` says of it."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    lock = (hidden / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    lock.write(note)
    lock.flush()
    os.fsync(lock.fileno())  # other hosts of a network file system read it
    directory = hidden.with_name(hidden.name[1:])
    hidden.rename(directory)  # from its first moment under this name it has a lock
    return directory, lock


def left_over(parent: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """Directories whose owner is gone, with their notes; locked until the next one is asked for.

    One without a lock was being removed when its owner was killed."""
    for directory in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), (directory / LOCK).open("a+") as lock:  # another user's is not ours to open
            if _is_free(lock):
                lock.seek(0)
                yield directory, lock.read()


def is_owned(directory: Path) -> bool:
    """Whether the process that made it lives, stopped or not."""
    try:
        with (directory / LOCK).open("a+") as lock:
            return not _is_free(lock)
    except OSError:
        return False


def _is_free(lock: IO[str]) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
