"""Flow control: which sequences may send a chunk now.

A sequence's next chunk leaves only when the detokenizer has acknowledged the last one in the ack table; whatever the
engine generates meanwhile goes into that chunk. So an idle system streams token by token, and a busy one sends fewer,
larger chunks by itself.

Chunks wait while a probe of their request is late (``disconnect_watch``): Triton 2.51 keeps in memory every response
that is sent to a client it knows to be gone.
"""

from __future__ import annotations

import time

from contract.ack_table import AckTable
from serving.streaming.sequence import ActiveSequence

LATE_SECONDS = 0.03  # a probe takes milliseconds


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

    def due(self) -> tuple[list[ActiveSequence], list[ActiveSequence]]:
        """Take out the sequences that may send now: those for which Triton is not called, and the others.

        A call takes a fraction of a millisecond, and all answers of a wave may end in one step."""
        table = self._ack_table
        late = time.monotonic() - LATE_SECONDS
        due: tuple[list[ActiveSequence], list[ActiveSequence]] = ([], [])
        for sequence in list(self._waiting.values()):
            request = sequence.request
            may_send = sequence.is_acked(table) and (request.probe_at > late or request.probes_arrived(table))
            if request.gone or may_send:
                del self._waiting[sequence.id]
                due[not sequence.is_open or bool(sequence.finish)].append(sequence)
        return due
