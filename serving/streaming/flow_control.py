"""Flow control: which sequences may send a chunk now.

A sequence's next chunk leaves only when the detokenizer has acknowledged the last one in the ack table; whatever the
engine generates meanwhile goes into that chunk. So an idle system streams token by token, and a busy one sends fewer,
larger chunks by itself. Few chunks are in flight at a time, so a new sequence's first token never queues behind the
hundreds of others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from contract.ack_table import AckTable
from serving.streaming.sequence import ActiveSequence

WINDOW = 64  # chunks in flight at a time: enough to keep every step of the ensemble busy
STALE_SECONDS = 0.2  # a chunk unacknowledged for longer no longer counts as in flight: its client may be gone


class FlowControl:
    """Owned by the dispatcher's thread."""

    def __init__(self, ack_table: AckTable) -> None:
        self._ack_table = ack_table
        self._waiting: dict[int, ActiveSequence] = {}  # have something to send, in order of arrival
        self._in_flight: dict[int, ActiveSequence] = {}  # have an unacknowledged chunk

    @property
    def waiting(self) -> int:
        """Sequences that have something to send."""
        return len(self._waiting)

    def add(self, sequence: ActiveSequence) -> None:
        self._waiting[sequence.id] = sequence

    def discard(self, sequence: ActiveSequence) -> None:
        self._waiting.pop(sequence.id, None)

    def due(self) -> Iterator[tuple[ActiveSequence, bool]]:
        """Take out the sequences that may send now, those without a first chunk first.

        The flag says that more are due after this one. The caller reports a chunk that it does send with ``sent``; the
        window is checked before each sequence."""
        if not self._waiting:
            return
        table, oldest = self._ack_table, time.monotonic() - STALE_SECONDS
        self._in_flight = {s.id: s for s in self._in_flight.values() if s.sent_at > oldest and not s.is_acked(table)}
        due = [s for s in self._waiting.values() if s.request.gone or s.is_acked(table)]
        due.sort(key=ActiveSequence.has_begun)
        for count, sequence in enumerate(due, 1):
            if len(self._in_flight) >= WINDOW:
                return
            self._waiting.pop(sequence.id, None)
            yield sequence, count < len(due)

    def sent(self, sequence: ActiveSequence) -> None:
        """Its next chunk is about to leave."""
        sequence.sent_beat, sequence.sent_at = self._ack_table.beats, time.monotonic()
        self._in_flight[sequence.id] = sequence
