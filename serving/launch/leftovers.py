"""Removes what a Triton leaves behind when it is killed (as ours is, once its models have closed) or fails to load."""

from __future__ import annotations

import contextlib
from pathlib import Path

from serving.launch import rundir, shm

TEMPORARY = Path("/tmp")  # wherever TMPDIR points


class Leftovers:
    """Shared memory by its prefix, and the empty directory that the Python backend makes for each server.

    Nothing says whose such a directory is: it is ours if no other has come between our start and our first stub."""

    def __init__(self, run_dir: Path, shm_prefix: str) -> None:
        self._run_dir, self._shm = run_dir, shm_prefix
        self._before: set[Path] | None = None

    def starting(self) -> None:
        """Call it before Triton is started."""
        self._before = _directories()

    def look(self) -> None:
        """Call it while Triton loads its models, as soon as one may be there."""
        if self._before is not None and any(self._run_dir.glob("*.pid")):
            new, self._before = _directories() - self._before, None
            if len(new) == 1:
                with contextlib.suppress(OSError):  # a full disk: the directory stays, and Triton says what is wrong
                    (self._run_dir / rundir.ENVIRONMENT).write_text(str(new.pop()))

    def remove(self) -> None:
        """Call it when Triton has ended."""
        shm.remove(self._shm)
        rundir.remove_environment(self._run_dir)


def _directories() -> set[Path]:
    return set(TEMPORARY.glob("python_env_*"))
