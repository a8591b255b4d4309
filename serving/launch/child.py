"""Child processes that cannot outlive their parent and end in bounded time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

import psutil

PR_SET_PDEATHSIG = 1
WAIT4 = 61  # x86-64's number of the system call
SEGMENT = re.compile(r"(/dev/shm/psm_\w+)$", re.MULTILINE)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """For ``preexec_fn``: the signal that the child gets when its parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def start(
    command: list[str], env: dict[str, str], log: IO[bytes], cwd: Path, orphaned: int = signal.SIGTERM
) -> subprocess.Popen[bytes]:
    """Start in a process group of its own, so that a terminal's Ctrl-C reaches the launcher alone.

    Not in a session of its own: Linux shares the cores between sessions first (sched(7), autogroup). A busy gateway
    would get as much as Triton, its models and the engine together, and a thread that gives way (``background``) would
    do so within its own session only.

    ``orphaned``: the signal it gets when the launcher was killed."""

    def prepare() -> None:
        os.setpgrp()
        die_with_parent(orphaned)

    return subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
        preexec_fn=prepare,  # safe: the launcher has one thread
    )  # fmt: skip


def stop(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """SIGTERM, wait, then SIGKILL to the whole process group. True when it ended by itself."""
    segments = worker_segments(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)  # stragglers of the group too: stubs, engine workers
        process.wait()
    for segment in segments:
        segment.unlink(missing_ok=True)
    return ended


def worker_segments(leader: int) -> set[Path]:
    """Python's own shared memory that processes of ``leader``'s group map: vLLM's workers leave theirs when killed.

    What ``leader`` maps itself is not counted: Triton maps regions there that belong to its clients."""
    found: dict[bool, set[Path]] = {True: set(), False: set()}
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            if os.getpgid(pid) == leader:
                found[pid == leader] |= {
                    Path(name) for name in SEGMENT.findall((process / "maps").read_text(errors="replace"))
                }
        except OSError:
            continue  # it has just ended
    return found[False] - found[True]


def cause(returncode: int) -> str:
    """What an exit code says."""
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def is_child(pid: int, parent: int) -> bool:
    """``pid`` runs, and ``parent`` started it."""
    try:
        return is_alive(pid) and psutil.Process(pid).ppid() == parent
    except psutil.NoSuchProcess:
        return False


def has_dead_child(pid: int) -> bool:
    """A child of ``pid`` has ended, and ``pid`` has not asked for its exit code."""
    try:
        return any(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process(pid).children())
    except psutil.NoSuchProcess:  # one of them has just gone for good
        return False


def has_stopped(leader: int) -> bool:
    """A process of ``leader``'s group is stopped by a signal, and will not go on by itself."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, OSError):  # it has just ended
            if os.getpgid(process.pid) == leader and process.status() == psutil.STATUS_STOPPED:
                return True
    return False


def awaits_child(pid: int) -> bool:
    """A thread of ``pid`` waits for the end of a child. Where the kernel tells nobody (Yama), it is not known."""
    for call in Path(f"/proc/{pid}/task").glob("*/syscall"):
        with contextlib.suppress(OSError):  # it has just ended
            if call.read_text().startswith(f"{WAIT4} "):
                return True
    return False


class Lasting:
    """For how long something has been true without a break."""

    def __init__(self) -> None:
        self._since: float | None = None

    def seconds(self, true: bool) -> float:
        now = time.monotonic()
        self._since = (self._since if self._since is not None else now) if true else None
        return now - self._since if self._since is not None else 0.0
