"""Triton's shared memory: its names say whose it is, so that what dead servers left can be told from what lives."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

DIRECTORY = Path("/dev/shm")
PROC = Path("/proc")
UNKNOWN = "0"  # PID namespace, where /proc does not tell
NAME = re.compile(r"qwen_(?P<launcher>\d+)_(?P<namespace>\d+)_")


def prefix() -> str:
    """Of this launcher's segments. Containers may share /dev/shm, but a PID counts in its own PID namespace alone."""
    return f"qwen_{os.getpid()}_{_namespace()}_"


def remove(start: str) -> None:
    """Remove what a killed stub leaves."""
    for file in DIRECTORY.glob(f"{start}*") if start else ():
        file.unlink(missing_ok=True)


def sweep() -> None:
    """Remove what no run directory names any more: a Triton whose launcher was killed may have made it after that.

    Only where the launcher has ended and no process has it open, both in this PID namespace, whose processes we see."""
    dead = [file for file in DIRECTORY.glob("qwen_*") if _is_dead(file)]
    held = "".join(map(_maps, PROC.glob("[0-9]*/maps"))) if dead else ""
    for file in dead:
        if file.name not in held:
            file.unlink(missing_ok=True)


def _is_dead(file: Path) -> bool:
    """Has its launcher, of this user, ended?"""
    named = NAME.match(file.name)
    if named is None or named["namespace"] not in {_namespace()} - {UNKNOWN} or (PROC / named["launcher"]).exists():
        return False
    with contextlib.suppress(OSError):
        return file.stat().st_uid == os.geteuid()
    return False


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return re.sub(r"\D", "", str((PROC / "self/ns/pid").readlink()))
    return UNKNOWN


def _maps(file: Path) -> str:
    with contextlib.suppress(OSError):  # it has just ended, or is another user's
        return file.read_text(errors="replace")
    return ""
