"""Who is open: slots, streams and requests. Called by Triton's thread and the sender's; one lock guards it all."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

from contract.ack_table import MAX_GENERATION
from contract.chunks import Job
from contract.errors import DuplicateId, Overloaded, shown
from serving.detokenizer.text import TextStream, TokenBytes
from serving.streaming.sequence import Group, Sink, Stream

REASONS = ("stop", "length", "cancelled", "error", "disconnected")


class Ledger:
    """A stream owns its slot from ``open`` to ``close``; slots rest in a queue, so that a used one is taken last."""

    def __init__(self, slots: int, token_bytes: Callable[[], TokenBytes]) -> None:
        self._token_bytes = token_bytes
        self._ids = itertools.count(1)
        self._unnamed = itertools.count()
        self._lock = threading.Lock()
        self.total = slots
        self.slots = deque(range(slots))
        self.streams: dict[int, Stream] = {}
        self.groups: dict[str, Group] = {}
        self.finished = dict.fromkeys(REASONS, 0)

    def open(self, request_id: str, prompt_tokens: int, job: Job, sink: Sink, limit: int) -> Group:
        """Raises ``DuplicateId`` for a running id, ``Overloaded`` when more than ``limit`` sequences would be open."""
        with self._lock:
            if request_id and request_id in self.groups:
                raise DuplicateId("request id", f"{shown(request_id)} is running; use a new id for every request")
            if len(self.streams) + job.n > limit or len(self.slots) < job.n:
                raise Overloaded(f"queue: full ({len(self.streams)} of {limit} sequences); try again later")
            group = Group(request_id or f"\0{next(self._unnamed)}", sink, job, open=job.n)
            self.groups[group.request_id] = group
            for index in range(job.n):
                self._add(group, index, prompt_tokens)
        return group

    def _add(self, group: Group, index: int, prompt_tokens: int) -> None:
        number = next(self._ids)
        stream = Stream(number, group, index, self.slots.popleft(), number % MAX_GENERATION + 1, prompt_tokens)
        text = group.job.text
        if text.stops and not group.job.stream:
            stream.text = TextStream(self._token_bytes(), text.stops, text.include_stop, text.min_tokens)
        group.streams.append(stream)
        self.streams[number] = stream

    def forget(self, group: Group) -> bool:
        """Take back an admission. False: the request has ended meanwhile, and its sink has heard so."""
        with self._lock:
            group.gone = True  # what the sender still holds of it goes nowhere
            for stream in group.streams:
                if self.streams.pop(stream.id, None):
                    self.slots.append(stream.slot)
            return self.groups.pop(group.request_id, None) is not None

    def close(self, stream: Stream, reason: str) -> bool:
        """End a stream. True when it was its request's last one."""
        group = stream.group
        with self._lock:
            if self.streams.pop(stream.id, None) is None:
                return False
            self.slots.append(stream.slot)
            group.open -= 1
            if not group.open:
                self.groups.pop(group.request_id, None)
            self.finished["disconnected" if group.gone else reason] += 1
            return not group.open

    def find(self, request_id: str) -> Group | None:
        with self._lock:
            return self.groups.get(request_id)

    def next_groups(self, count: int) -> list[Group]:
        """The ``count`` requests that were not looked at for longest."""
        with self._lock:
            chosen = list(itertools.islice(self.groups.values(), count))
            for group in chosen:
                self.groups[group.request_id] = self.groups.pop(group.request_id)
        return chosen
