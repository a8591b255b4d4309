"""Responses leave through a few threads at once.

A send is a round trip to Triton: the stub's thread waits until the server has taken the response. On a host whose other
cores sleep in between that is four wake-ups, and one thread after the other would cap the chunks per second of all
sequences together. Helpers are used only when several chunks are due; a lone one goes in the caller's own thread, which
saves it the hand-over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from contract.chunks import Chunk
from serving.streaming.sequence import ActiveRequest

log = logging.getLogger(__name__)

HELPERS = 3
AHEAD = 2  # responses per helper: one being sent, one that waits, so that a helper does not fall asleep in a burst
SETTLE_SECONDS = 0.0002


class Senders:
    """``send`` and ``settle`` belong to one thread. A request whose sink breaks is put into ``failed``."""

    def __init__(self, wake: Callable[[], None], helpers: int = HELPERS) -> None:
        self.failed: deque[tuple[ActiveRequest, bool]] = deque()  # True: it was the last response
        self._wake = wake
        self._queue: SimpleQueue[tuple[ActiveRequest, list[Chunk], bool] | None] = SimpleQueue()
        self._handed = 0
        self._done = [0] * helpers  # each helper's own count: no lock
        for number in range(helpers):
            threading.Thread(target=self._help, args=(number,), name=f"send-{number}", daemon=True).start()

    @property
    def pending(self) -> int:
        """Responses that a helper has not sent yet."""
        return self._handed - sum(self._done)

    def send(self, request: ActiveRequest, chunks: list[Chunk], final: bool, *, more: bool) -> None:
        """``more``: others are due too. Several sequences of a request share a sink, so they stay in this thread, and
        so does what is due while a helper has not returned from this request's last one: its mark must stay its own."""
        if not more or request.sending or len(request.sequences) > 1 or self.pending >= AHEAD * len(self._done):
            self._deliver(request, chunks, final)
            return
        request.sending = True
        self._handed += 1
        self._queue.put((request, chunks, final))

    def settle(self, request: ActiveRequest) -> None:
        """Wait until no helper is busy for this request: its last words must come last."""
        while request.sending:
            time.sleep(SETTLE_SECONDS)

    def close(self) -> None:
        for _ in self._done:
            self._queue.put(None)

    def _help(self, number: int) -> None:
        while (item := self._queue.get()) is not None:
            self._deliver(*item)
            item[0].sending = False
            self._done[number] += 1

    def _deliver(self, request: ActiveRequest, chunks: list[Chunk], final: bool) -> None:
        try:
            request.sink.send(chunks, final)
        except Exception:
            log.exception("request %s: a response could not be sent", request.request_id)
            self.failed.append((request, final))
            self._wake()
