"""How long to wait for a server that has answered before: a restart takes longer than a few quick attempts."""

from __future__ import annotations

import time

from client.types import Retry


class KnownServer:
    """Whether a server has ever answered, and since when it does not. Shared by all requests to it, so that those that
    come after a long outage fail at once."""

    def __init__(self) -> None:
        self.answered = False
        self._gone_since = self._failed_at = float("-inf")

    def answers(self) -> None:
        self.answered, self._gone_since = True, float("-inf")

    def gone_since(self, now: float, patience: float) -> float:
        """Call at each failure. One that comes longer than ``patience`` after the last begins a new outage."""
        if self._gone_since == float("-inf") or now - self._failed_at > patience:
            self._gone_since = now
        self._failed_at = now
        return self._gone_since


class Patience:
    """One request's: it must not be repeated for ever because others are answered."""

    def __init__(self, retry: Retry) -> None:
        self._seconds = retry.patience
        self._since: float | None = None

    def renew(self) -> None:
        """Call when the request gets on."""
        self._since = None

    def left(self, server: KnownServer) -> float:
        """Call at each failure: the seconds that may still pass until the last attempt, 0 for an unknown server."""
        if not server.answered:
            return 0.0
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return max(0.0, self._seconds - (now - min(self._since, server.gone_since(now, self._seconds))))
