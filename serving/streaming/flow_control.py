"""Flow control: which sequences may send a chunk now.

A sequence's next chunk leaves only when the detokenizer has acknowledged the last one in the ack table; whatever the
engine generates meanwhile goes into that chunk. So an idle system streams token by token, and a busy one sends fewer,
larger chunks by itself.

Chunks wait while a visit of their request is late (``disconnect_watch``): Triton 2.51 keeps in memory every response
that is sent to a client it knows to be gone.
"""

from __future__ import annotations

import time

from contract.ack_table import AckTable
from serving.streaming.sequence import ActiveSequence

LATE_SECONDS = 0.03  # a visit takes milliseconds


class FlowControl:
    """Owned by the dispatcher's thread."""

    def __init__(self, ack_table: AckTable) -> None:
        self._ack_table = ack_table
        self._waiting: dict[int, ActiveSequence] = {}  # have something to send, in order of arrival

    @property
    def waiting(self) -> int:
        """Sequences that have something to send."""
        return len(self._waiting)

    def add(self, sequence: ActiveSequence) -> None:
        self._waiting[sequence.id] = sequence

    def discard(self, sequence: ActiveSequence) -> None:
        self._waiting.pop(sequence.id, None)

    def due(self) -> list[ActiveSequence]:
        """Take out the sequences that may send now, those with an open answer first: that takes no time."""
        table = self._ack_table
        late = time.monotonic() - LATE_SECONDS
        due = [
            s
            for s in self._waiting.values()
            if s.request.gone or (s.is_acked(table) and (s.request.visit_at > late or s.request.is_visited(table)))
        ]
        for sequence in due:
            self._waiting.pop(sequence.id, None)
        due.sort(key=lambda sequence: not sequence.is_open)
        return due
