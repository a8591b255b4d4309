"""What the load generator raises on purpose.

LoadtestError            a user's mistake or a target that is not there: one line, exit code 2
TransportError           one stream failed: counted by ``kind``, the run goes on
"""

from __future__ import annotations

from contract.errors import OperatorError

EXIT_OK = 0
EXIT_LIMITS_MISSED = 1
EXIT_USAGE = 2
EXIT_INVALID = 3
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT


class LoadtestError(OperatorError):
    """One line: what was wrong, the value, what to do."""


class TransportError(Exception):
    """One stream failed. ``kind`` groups failures in the report: connect, timeout, queue_full, engine, cut_short, …

    ``status``: HTTP's, where that was the answer."""

    def __init__(self, kind: str, message: str, status: int = 0) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.status = status
