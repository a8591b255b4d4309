"""The private directory of one serving session, and those that killed sessions have left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

from contract.heartbeat import worker_pids
from serving import session_dir
from serving.launch import child, shm
from serving.launch.config import LaunchError

PREFIX = "qwen-serve-"
GATEWAY = "gateway"  # the gateway's folder in a run directory
ENVIRONMENT = "python_env"  # says where Triton's Python backend has made its directory
ENDING_SECONDS = 20.0  # a dead launcher's Triton drains and ends in this time
# Triton's Python backend starts its stubs with a line of bash that has no quotes, and the Python in them decodes paths
# as ASCII.
PLAIN = re.compile(r"[\w./+,@%=-]+", re.ASCII)


def parent() -> Path:
    """The first usable directory for run directories: after su, XDG_RUNTIME_DIR may be another user's, or gone."""
    for directory in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()):
        if PLAIN.fullmatch(directory) and os.access(directory, os.W_OK):
            return Path(directory)
    return Path("/tmp")


def plain(path: Path, directory: Path, name: str) -> Path:
    """``path``, or a link to it in ``directory`` if Triton cannot handle its characters."""
    if PLAIN.fullmatch(str(path)):
        return path
    link = directory / name
    if not link.is_symlink():
        link.symlink_to(path)
    return link


def check_logs(logs: Path) -> None:
    """Before anything starts: the first log would fail in the middle of it. Raises ``LaunchError``."""
    try:
        logs.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=logs):
            return
    except OSError as error:
        remedy = "make it writable for this user, or serve from a checkout of its own"
        raise LaunchError(f"{logs}, where the logs go, cannot be written ({error.strerror}): {remedy}") from None


def create(shm_prefix: str) -> tuple[Path, IO[str]]:
    """A new directory and its lock, held until the file is closed; it names the session's shared memory."""
    return session_dir.create(parent(), PREFIX, shm_prefix)


def await_ending() -> None:
    """Remove what killed sessions left; if one of them is still ending, wait for its processes, which hold ports."""
    said, until = False, time.monotonic() + ENDING_SECONDS
    for directory, shm_prefix in session_dir.left_over(parent(), PREFIX):
        while any(map(child.is_alive, _pids(directory))) and time.monotonic() < until:
            if not said:
                print("an earlier server, whose launcher was killed, is still ending: waiting for it", flush=True)
                said = True
            time.sleep(0.1)
        shm.remove(shm_prefix)
        remove_environment(directory)
        shutil.rmtree(directory, ignore_errors=True)
    shm.sweep()


def remove_environment(directory: Path) -> None:
    """Remove what the backend of the Triton of this run directory made in /tmp, unless something is in it."""
    with contextlib.suppress(OSError):
        Path((directory / ENVIRONMENT).read_text()).rmdir()


def _pids(directory: Path) -> list[int]:
    """Processes of Triton's models, and gateway workers without a supervisor, which keep the port for a moment."""
    models = [file.read_text() for file in directory.glob("*.pid")]
    return [*(int(text) for text in models if text.isdecimal()), *worker_pids(directory / GATEWAY)]
