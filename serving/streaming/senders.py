"""Sending: responses leave through several threads at once.

A send is a round trip to Triton: the stub's thread waits until the server has taken the response. On a host whose other
cores sleep in between, that costs four wake-ups, and a single sending thread would cap the chunks per second of all
sequences together. Helpers are used only when several chunks are due; a lone one is sent in the caller's own thread,
which saves the hand-over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from contract.chunks import IntArray
from serving.streaming.sequence import ActiveRequest

log = logging.getLogger(__name__)

HELPERS = 3
AHEAD = 2  # responses per helper: one being sent and one waiting, so that a helper does not fall asleep in a burst
SETTLE_SECONDS = 0.0002


class Senders:
    """``send`` and ``end`` belong to one thread. A request whose sink raises is put into ``failed``."""

    def __init__(self, wake: Callable[[], None], helpers: int = HELPERS) -> None:
        self.failed: deque[tuple[ActiveRequest, bool]] = deque()  # True: it was the last response
        self.sent = 0  # responses, those still waiting for a helper included
        self._wake = wake
        self._queue: SimpleQueue[tuple[ActiveRequest, IntArray, bool] | None] = SimpleQueue()
        self._handed = 0
        self._done = [0] * helpers  # each helper's own count, so that no lock is needed
        for number in range(helpers):
            threading.Thread(target=self._help, args=(number,), name=f"send-{number}", daemon=True).start()

    @property
    def pending(self) -> int:
        """Responses that a helper has not sent yet."""
        return self._handed - sum(self._done)

    def send(self, request: ActiveRequest, words: IntArray, final: bool, *, more: bool = False) -> None:
        """``more``: other requests have a response due too, so a helper may take this one.

        A request with several sequences stays in this thread, because they share a sink. So does a response that is due
        while a helper has not yet returned from the request's last one: ``sending`` describes one response at a time.
        """
        self.sent += 1
        if not more or request.sending or len(request.sequences) > 1 or self.pending >= AHEAD * len(self._done):
            self._deliver(request, words, final)
            return
        request.sending = True
        self._handed += 1
        self._queue.put((request, words, final))

    def end(self, request: ActiveRequest, say: Callable[[], None]) -> None:
        """Call ``say``, which ends the request at its sink, once no helper is busy with it: it must come last.

        A sink that raises affects no other request."""
        while request.sending:
            time.sleep(SETTLE_SECONDS)
        try:
            say()
        except Exception:
            log.exception("request %s: it could not be ended", request.request_id)

    def close(self) -> None:
        for _ in self._done:
            self._queue.put(None)

    def _help(self, number: int) -> None:
        while (item := self._queue.get()) is not None:
            self._deliver(*item)
            item[0].sending = False
            self._done[number] += 1

    def _deliver(self, request: ActiveRequest, words: IntArray, final: bool) -> None:
        try:
            request.sink.send(words, final)
        except Exception:
            log.exception("request %s: a response could not be sent", request.request_id)
            self.failed.append((request, final))
            self._wake()
