"""What all gateway workers report as readiness: why requests cannot be answered now and until when, or nothing."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from serving.launch import logs
from serving.outage import Outage

# A restart is expected to take as long as the last start and a quarter more, besides what it takes to stop the old one:
# a client that comes back too early has one attempt less.
SLOWER, STOP_SECONDS = 1.25, 1.0


class Readiness:
    """A file that the gateway reads at every health check. No file means: not ready."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: Outage | None = None
        self._launched = 0.0  # when the start under way began
        self._start_seconds = 0.0  # of the last start that ended well; 0: none has

    def launching(self) -> None:
        """A start begins; it ends with ``say("")``."""
        self._launched = time.monotonic()

    def restarting(self, why: str, pause: float = 0.0) -> None:
        """``pause``: seconds until the next start."""
        known = self._start_seconds
        back_at = time.monotonic() + pause + known * SLOWER + STOP_SECONDS if known else 0.0
        self.say(f"restarting: {why}", back_at)

    def say(self, problem: str, back_at: float = 0.0) -> None:
        """``back_at``: when the problem is expected to be over, on the monotonic clock; 0: unknown."""
        if not problem and self._launched:
            self._start_seconds, self._launched = time.monotonic() - self._launched, 0.0
        outage = Outage(problem, back_at)
        if outage == self._said:
            return
        partial = self._path.with_suffix(".new")
        try:
            partial.write_text(outage.dump())
            partial.replace(self._path)
            self._said = outage
        except OSError as error:  # a full disk: the old word, which is wrong now, goes; the next turn tries again
            if self._said is not None:
                logs.say(f"warning: {self._path} cannot be written ({error.strerror}): the gateway is not ready")
            self._said = None
            with contextlib.suppress(OSError):
                self._path.unlink()
