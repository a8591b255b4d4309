"""What the load generator raises on purpose.

LoadtestError            a user's mistake or a target that is not there: one line, exit code 2
TransportError           one stream failed: counted by ``kind``, the run goes on
"""

from __future__ import annotations

from contract.errors import OperatorError

LONGEST = 300  # characters kept of what a failure said
EXIT_OK = 0
EXIT_LIMITS_MISSED = 1
EXIT_USAGE = 2
EXIT_INVALID = 3
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT


class LoadtestError(OperatorError):
    """One line: what was wrong, the value, what to do."""


class TransportError(Exception):
    """One stream failed. ``kind`` groups failures in the report: connect, timeout, queue_full, engine, cut_short, …

    Both are the server's words, so they become one line that a terminal and a file can take. ``status``: HTTP's, where
    that was the answer."""

    def __init__(self, kind: str, message: str, status: int = 0) -> None:
        self.kind, self.message, self.status = one_line(kind), one_line(message), status
        super().__init__(f"{self.kind}: {self.message}")


def one_line(text: str) -> str:
    """Without line ends, a terminal's control sequences and half characters; some servers repeat the whole prompt."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * LONGEST]).split())[:LONGEST]
