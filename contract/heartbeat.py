"""A counter in a small mapped file: one process counts up while it gets CPU time, another one sees that it does."""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path

SUFFIX = ".beat"
BEAT_SECONDS = 0.1


class Heartbeat:
    """A mapped counter. ``create`` in the process that beats, the constructor in the one that watches."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)
        self._word = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, path: Path) -> Heartbeat:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(bytes(8))
        partial.replace(path)
        return cls(path)

    def beat(self) -> None:
        self._word[0] += 1

    @property
    def count(self) -> int:
        return self._word[0]

    def close(self) -> None:
        self._word.release()
        self._map.close()


def worker_path(run_dir: Path, pid: int) -> Path:
    """Where a gateway worker beats."""
    return run_dir / f"worker-{pid}{SUFFIX}"


def start(path: Path) -> None:
    """Beat from a thread of its own for as long as this process runs, whatever its other threads wait for.

    The process ends when its parent is gone: a stub of a Triton that was killed does not always notice by itself."""
    heartbeat, parent = Heartbeat.create(path), os.getppid()

    def run() -> None:
        while os.getppid() == parent:
            heartbeat.beat()
            time.sleep(BEAT_SECONDS)
        os._exit(1)

    threading.Thread(target=run, name="heartbeat", daemon=True).start()
