"""What all gateway workers report as readiness: why requests cannot be answered now, or nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

from serving.launch import logs


class Readiness:
    """A file that the gateway reads at every health check. No file means: not ready."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: str | None = None

    def say(self, problem: str) -> None:
        if problem == self._said:
            return
        partial = self._path.with_suffix(".new")
        try:
            partial.write_text(problem)
            partial.replace(self._path)
            self._said = problem
        except OSError as error:  # a full disk: the old word, which is wrong now, goes; the next turn tries again
            if self._said is not None:
                logs.say(f"warning: {self._path} cannot be written ({error.strerror}): the gateway is not ready")
            self._said = None
            with contextlib.suppress(OSError):
                self._path.unlink()
