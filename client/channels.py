"""Chooses which of several Tritons gets the next attempt of a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from client.errors import Cancelled

CLOSED = "the client is closed; make a new one"
CUT_SHORT = "the client was closed before the answer had ended"
AVOID_SECONDS = 2.0  # a channel that failed is passed over for this long, if there is another

C = TypeVar("C")


class Channels(Generic[C]):
    """Connections to Tritons that serve the same engine. Picks the one with the fewest open requests; with ``home``,
    the first for as long as it works, because the conversation's cache is there. Thread-safe."""

    def __init__(self, channels: Sequence[C], *, home: bool = False) -> None:
        self.all, self._home = tuple(channels), home
        self._open = [0] * len(channels)
        self._avoid_until = [0.0] * len(channels)
        self._streams: WeakSet[Any] = WeakSet()  # those that have not ended
        self._closed = False
        self._lock = threading.RLock()  # a stream that is dropped may be collected while its thread holds the lock

    def pick(self) -> C:
        """Call ``left`` with the channel when the attempt is over. Raises ``Cancelled`` once the client is closed."""
        with self._lock:
            if self._closed:
                raise Cancelled(CLOSED)
            now = time.monotonic()
            best = min(range(len(self.all)), key=lambda i: (self._avoid_until[i] > now, *self._rank(i), i))
            self._open[best] += 1
        return self.all[best]

    def _rank(self, index: int) -> tuple[bool, int]:
        return (self._home and index > 0, self._open[index])

    def left(self, channel: C, *, failed: bool = False) -> None:
        with self._lock:
            index = self.all.index(channel)
            self._open[index] -= 1
            if failed:
                self._avoid_until[index] = time.monotonic() + AVOID_SECONDS

    def opened(self, stream: Any) -> None:
        """``stream`` runs until it is ``ended``. It is held weakly: a stream that is dropped stops by itself."""
        with self._lock:
            self._streams.add(stream)

    def ended(self, stream: Any) -> None:
        with self._lock:
            self._streams.discard(stream)

    def running(self) -> list[Any]:
        with self._lock:
            return list(self._streams)

    def close(self) -> None:
        """End the streams that still run: their readers get ``Cancelled``, and no new one starts."""
        with self._lock:
            self._closed = True
        for stream in self.running():
            stream.end_with_client()
