"""A counter in a small mapped file: one process increments it while it gets CPU time, another one watches it."""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".beat"
BEAT_SECONDS = 0.1
LOOK_BEATS = 10  # between two looks at whether the file is still there
MOST_PER_TURN = 0.25  # seconds of silence that one turn of a watcher may add


class Heartbeat:
    """A mapped counter. ``create`` in the process that beats, the constructor in the one that watches."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map, self.inode = mmap.mmap(file.fileno(), 8), os.fstat(file.fileno()).st_ino
        self._word = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, path: Path) -> Heartbeat:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(bytes(8))
        made = cls(partial)  # before others see the file, who may put theirs in its place
        partial.replace(path)
        return made

    def beat(self) -> None:
        self._word[0] += 1

    @property
    def count(self) -> int:
        return self._word[0]

    def close(self) -> None:
        self._word.release()
        self._map.close()


@dataclass
class Sign:
    """``count`` is what changes while its owner lives; ``silent`` the seconds since it last did.

    Silence is counted in turns of the watcher's own loop and never more than ``MOST_PER_TURN`` a turn: on a starved
    host, or after a suspended laptop wakes up, the watcher has not run either and blames nobody."""

    count: int = -1
    silent: float = 0.0

    def look(self, count: int, elapsed: float) -> float:
        """``elapsed``: seconds since the last look. Returns ``silent``."""
        self.silent = self.silent + min(elapsed, MOST_PER_TURN) if count == self.count else 0.0
        self.count = count
        return self.silent


class Pulse:
    """The sign of a heartbeat whose file may not be there yet; until it is, the count stands still."""

    def __init__(self, path: Path) -> None:
        self._path, self._heartbeat = path, _open(path)
        self._sign = Sign()

    @property
    def has_begun(self) -> bool:
        return self._heartbeat is not None

    @property
    def silent(self) -> float:
        return self._sign.silent

    def look(self, elapsed: float) -> float:
        """Call once per turn; seconds of silence."""
        self._heartbeat = self._heartbeat or _open(self._path)
        return self._sign.look(self._heartbeat.count if self._heartbeat else -1, elapsed)

    def close(self) -> None:
        if self._heartbeat:
            self._heartbeat.close()
            self._heartbeat = None


def _open(path: Path) -> Heartbeat | None:
    try:
        return Heartbeat(path)
    except FileNotFoundError:
        return None


def worker_path(run_dir: Path, pid: int) -> Path:
    """A gateway worker's heartbeat file."""
    return run_dir / f"worker-{pid}{SUFFIX}"


def worker_pids(home: Path) -> set[int]:
    """Gateway workers that have begun to serve, with their run directory in ``home``; they may have ended since."""
    return {int(path.stem.rpartition("-")[2]) for path in home.glob(f"*/worker-*{SUFFIX}")}


def supervisor_path(run_dir: Path) -> Path:
    """The heartbeat file of the gateway's supervisor."""
    return run_dir / f"supervisor{SUFFIX}"


def launcher_path(run_dir: Path) -> Path:
    """The launcher's heartbeat file, which the gateway watches."""
    return run_dir / f"launcher{SUFFIX}"


def start(path: Path) -> None:
    """Beat from a thread of its own for as long as this process runs, whatever its other threads wait for.

    The process ends when its parent is gone: a stub of a Triton that was killed does not always notice by itself. It
    also ends when another file, or none, is at ``path``: then the parent was gone before ``getppid`` was called, and
    the run directory was removed or belongs to another Triton.
    """
    heartbeat, parent = Heartbeat.create(path), os.getppid()

    def run() -> None:
        beats = 0
        while os.getppid() == parent and (beats % LOOK_BEATS or _inode(path) == heartbeat.inode):
            heartbeat.beat()
            beats += 1
            time.sleep(BEAT_SECONDS)
        os._exit(1)

    threading.Thread(target=run, name="heartbeat", daemon=True).start()


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
