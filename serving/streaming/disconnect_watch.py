"""Disconnect watch: finds requests whose client is gone, and notices when the detokenizer is gone.

When a client disconnects, an ensemble marks later steps as cancelled, but it never tells a step that is running. So the
engine step sends probes: now and then, an empty chunk of each request through Triton to the detokenizer, which writes
into the ack table whether it came cancelled. A chunk or probe that does not arrive although the detokenizer is alive
was lost, and with it the request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from contract.ack_table import AckTable
from serving.streaming.clock import Clock
from serving.streaming.registry import RequestRegistry
from serving.streaming.sequence import ActiveRequest, ActiveSequence

log = logging.getLogger(__name__)

GONE_BEATS = 24  # 1.2 s of the detokenizer's own time without an acknowledgement: the client is gone
DEAD_BEAT_SECONDS = 30.0  # without a heartbeat: the detokenizer is gone
PROBE_INTERVAL = 0.3  # seconds between two probes of a request, and from its beginning to the first
PROBE_SECONDS = 0.005  # between the probes of two requests, on average: each is a round trip through Triton
PROBES_AT_ONCE = 10  # after a dispatcher's turn without any: with nothing to send it takes 50 ms


class DisconnectWatch:
    """Owned by the dispatcher's thread, which calls both methods at every housekeeping turn."""

    def __init__(self, ack_table: AckTable, clock: Clock, registry: RequestRegistry) -> None:
        self._ack_table, self._clock = ack_table, clock
        self._registry = registry
        self._last_beat = (0, time.monotonic())
        self._next_probe = 0.0

    def abandoned(self) -> Iterator[ActiveRequest]:
        """Requests that nobody listens to any more, by a missing acknowledgement or probe."""
        beats = self._clock.now
        for sequence in list(self._registry.sequences.values()):
            request = sequence.request
            if request.gone:
                continue
            if request.is_left(self._ack_table):
                log.info("request %s: the client is gone", request.request_id)
                yield request
            elif sequence.is_owed(self._ack_table) and beats - sequence.sent_beat > GONE_BEATS:
                log.info("request %s: chunk %d was not acknowledged", request.request_id, sequence.seq)
                yield request
            elif not request.probes_arrived(self._ack_table) and beats - request.probe_beat > GONE_BEATS:
                log.info("request %s: probe %d did not come through", request.request_id, request.probes)
                yield request

    def next_probe(self, now: float) -> ActiveSequence | None:
        """A sequence of the request that nobody has looked after for longest, if it is time for another probe."""
        if now < self._next_probe:
            return None
        self._next_probe = max(self._next_probe, now - PROBES_AT_ONCE * PROBE_SECONDS) + PROBE_SECONDS
        for request in self._registry.next_requests(1):
            is_due = now >= request.probe_at + PROBE_INTERVAL and request.probes_arrived(self._ack_table)
            if is_due and not request.gone:
                return next((s for s in request.sequences if s.id in self._registry.sequences), None)
        return None

    def is_detokenizer_silent(self, now: float) -> bool:
        """It owes acknowledgements, and one of its processes has written no heartbeat for ``DEAD_BEAT_SECONDS``."""
        beats = self._clock.now
        if beats != self._last_beat[0]:
            self._last_beat = (beats, now)
        return now - self._last_beat[1] > DEAD_BEAT_SECONDS and any(
            sequence.is_owed(self._ack_table) or not sequence.request.probes_arrived(self._ack_table)
            for sequence in list(self._registry.sequences.values())
        )
