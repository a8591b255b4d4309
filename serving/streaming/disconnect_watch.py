"""Disconnect watch: finds requests whose client is gone, and notices when the detokenizer is gone.

An ensemble stops scheduling later steps when its client disconnects, but never tells a running one. So a chunk that
stays unacknowledged while the detokenizer lives means that nobody is listening. The detokenizer's life is measured by
its own heartbeat, because on a starved host it may be slow for seconds without any client being gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from contract.ack_table import AckTable
from serving.streaming.registry import RequestRegistry
from serving.streaming.sequence import ActiveRequest, ActiveSequence

log = logging.getLogger(__name__)

GONE_BEATS = 24  # 1.2 s of the detokenizer's own time without an acknowledgement: the client is gone
DEAD_BEAT_SECONDS = 30.0  # no heartbeat at all: the detokenizer is gone
CANCEL_CHECKS = 4  # sinks asked per turn; each question is a round trip to Triton


class DisconnectWatch:
    """Owned by the dispatcher's thread, which calls both methods at every housekeeping turn."""

    def __init__(self, ack_table: AckTable, registry: RequestRegistry) -> None:
        self._ack_table = ack_table
        self._registry = registry
        self._last_beat = (0, time.monotonic())

    def abandoned(self) -> Iterator[ActiveRequest]:
        """Requests that nobody listens to any more, by their missing acknowledgements or because Triton says so."""
        beats = self._ack_table.beats
        for sequence in self._unacknowledged():
            if beats - sequence.sent_beat > GONE_BEATS and not sequence.request.gone:
                name = sequence.request.request_id
                log.info("request %s: chunk %d was not acknowledged, the client is gone", name, sequence.seq)
                yield sequence.request
        for request in self._registry.next_requests(CANCEL_CHECKS):
            if not request.gone and _is_cancelled(request):
                yield request

    def is_detokenizer_silent(self, now: float) -> bool:
        """It owes acknowledgements and has not written a heartbeat for ``DEAD_BEAT_SECONDS``."""
        beats = self._ack_table.beats
        if beats != self._last_beat[0]:
            self._last_beat = (beats, now)
        return now - self._last_beat[1] > DEAD_BEAT_SECONDS and any(self._unacknowledged())

    def _unacknowledged(self) -> Iterator[ActiveSequence]:
        for sequence in list(self._registry.sequences.values()):
            if sequence.request.job.stream and not sequence.is_acked(self._ack_table):
                yield sequence


def _is_cancelled(request: ActiveRequest) -> bool:
    try:
        return request.sink.cancelled()
    except Exception:
        log.exception("request %s: asking Triton whether its client is gone failed", request.request_id)
        return True
