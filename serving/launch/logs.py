"""Children's logs: who may read them, and the one line that says what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
from pathlib import Path
from typing import IO

HARMLESS = ("NVML", "CudaDriverHelper", "DCGM", "unable to create stream")  # logged at every start without a GPU

# In the line that Triton makes of a traceback.
RAISED = re.compile(r"([\w.]+(?:Error|Exception)): (.+?)(?:\\n|$)")
# Faults of a program: their messages say little without the name. Those of all others are sentences.
NAMED = ("KeyError", "IndexError", "AttributeError", "TypeError", "AssertionError", "NameError")
NO_MEMORY = "there is not enough memory, or too little is allowed (ulimit -v, the container's limit)"
NO_THREAD = (
    "no thread more is allowed: raise ulimit -u, systemd's TasksMax= or the container's limit (docker run --pids-limit)"
)
LACKS = (  # what a machine may lack, as Triton and Python put it, and what to do
    (
        "to initialize shared memory",
        "/dev/shm is full or too small: remove what dead programs left there, or give the container more "
        "(docker run --shm-size=1g)",
    ),
    (
        os.strerror(errno.ENOSPC),
        "a disk is full: make room where the run directory (XDG_RUNTIME_DIR, TMPDIR) and .run lie",
    ),
    ("bad_alloc", NO_MEMORY),
    ("MemoryError", NO_MEMORY),
    (os.strerror(errno.ENOMEM), NO_MEMORY),
    ("can't start new thread", NO_THREAD),
    ("what():  " + os.strerror(errno.EAGAIN), NO_THREAD),
    ("pthread_create failed", NO_THREAD),
    (os.strerror(errno.EMFILE), "too few open files are allowed (ulimit -Hn)"),
)


def say(line: str) -> None:
    """Print to the terminal. A full disk or a reader that left must not end the server."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a log that only its owner can read, even if it existed before: a model's log may quote what users wrote.

    Children always append: after logrotate's ``copytruncate`` they would otherwise go on at their old offset, behind
    zeros."""
    file = open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_APPEND, 0o600))  # noqa: SIM115
    os.fchmod(file.fileno(), 0o600)
    return file


def last_line(path: Path) -> str:
    lines = [line for line in _written(path).splitlines() if line.strip()]
    return lines[-1] if lines else f"see {path}"


def _written(path: Path, start: int = 0) -> str:
    """A log from ``start`` on; all of it if it has been truncated since, nothing if it has been removed."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ""
    return text[start if start <= len(text) else 0 :].decode(errors="replace")


def error_line(path: Path, returncode: int | None, start: int = 0) -> str:
    """What the machine lacks, else the last Python exception, the signal that ended Triton, or its last error line.

    ``start``: where in the log this Triton's own lines begin."""
    text = _written(path, start)
    lines = [line for line in text.splitlines() if not any(word in line for word in HARMLESS)]
    for sign, remedy in LACKS:
        if sign in text:
            return NO_MEMORY if remedy is NO_THREAD and _has_few_addresses() else remedy
    for line in reversed(lines):
        if "Error:" in line and "failed to" not in line:
            raised = RAISED.search(line)
            return _sentence(raised[1], raised[2]) if raised else line.strip()
    if returncode == -signal.SIGXFSZ:
        return "a log or another file may not grow further: raise ulimit -f or systemd's LimitFSIZE="
    if returncode is not None and returncode < 0:
        return f"tritonserver was ended by {signal.Signals(-returncode).name}"
    errors = [line for line in lines if line.startswith(("E", "bash:"))]
    if errors:
        return errors[-1].strip()
    return "a model process ended" if returncode is None else "it ended without a message"


def _has_few_addresses() -> bool:
    """Then threads lack room for their stacks. A child's limits are this process's."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _sentence(exception: str, message: str) -> str:
    """An exception as a user reads it: without its class and error number."""
    return f"{exception}: {message}" if exception in NAMED else re.sub(r"^\[Errno \d+\] ", "", message)
