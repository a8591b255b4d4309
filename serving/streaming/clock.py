"""The detokenizer's own time, which measures how long to be patient with a client.

On a starved host, or while tritonserver is stopped, an acknowledgement may take seconds although no client is gone. So
this clock advances only as fast as the slowest of the detokenizer's processes beats, and no faster than this process
looks at it: while Triton does not run, the dispatcher waits inside Triton's send.
"""

from __future__ import annotations

from contract.ack_table import MOST_READERS, AckTable

MOST_PER_LOOK = 4  # beats, of which two fall between the looks of a dispatcher that gets its CPU time


class Clock:
    """Owned by the dispatcher's thread."""

    def __init__(self, ack_table: AckTable) -> None:
        self._ack_table = ack_table
        self._seen = [0] * MOST_READERS
        self._now = 0

    @property
    def now(self) -> int:
        """Beats since the beginning, as of the last ``look``."""
        return self._now

    def look(self) -> None:
        beats = self._ack_table.beats
        passed = min((count - seen for count, seen in zip(beats, self._seen, strict=True) if count), default=0)
        if passed:
            self._now += min(passed, MOST_PER_LOOK)
            self._seen = beats
