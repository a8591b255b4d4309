"""Flow control: which sequences may send a chunk now.

A sequence's next chunk leaves only when the detokenizer has acknowledged the last one in the ack table; whatever the
engine generates meanwhile goes into that chunk. So an idle system streams token by token, and a busy one sends fewer,
larger chunks by itself.
"""

from __future__ import annotations

from contract.ack_table import AckTable
from serving.streaming.sequence import ActiveSequence


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
        due: tuple[list[ActiveSequence], list[ActiveSequence]] = ([], [])
        for sequence in list(self._waiting.values()):
            if sequence.request.gone or sequence.is_acked(table):
                del self._waiting[sequence.id]
                due[not sequence.is_open or bool(sequence.finish)].append(sequence)
        return due
