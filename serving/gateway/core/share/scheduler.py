"""Whose request goes to the engine next: tokens are shared among tenants, over all workers.

The engine gets no more sequences than it decodes at once, and no more unread prompt tokens than keep it busy; the rest
waits here, one queue per tenant. The tenant with the smallest counter (``table``) is next. While there is room nobody
waits, and nothing but a few additions is done.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from serving.gateway.core.share.capacity import Capacity, CapacityMeter
from serving.gateway.core.share.prefill import PrefillMeter
from serving.gateway.core.share.table import ShareTable

LOOK_SECONDS = 0.005  # between looks at the other workers' places while requests wait here
RANK_LOOKS = 10  # after so many of them the order is found anew, for other workers change it too
FIRST_MEAN = 128.0  # tokens of an answer, until some have been seen
MEMORY = 50  # answers over which their mean length is taken


@dataclass(frozen=True, slots=True)
class Work:
    """What one call brings to the engine. Tokens; ``prompt`` is an estimate, ``most``: of one answer, 0 unknown.

    ``streams``: its first token is seen when it is made, not at the end of the answer."""

    tenant: int
    sequences: int
    prompt: int
    most: int = 0
    streams: bool = True


class EngineTurn:
    """One call's turn at the engine: ``come`` waits for it, ``leave`` ends it, however far it came."""

    __slots__ = ("_future", "_scheduler", "_unread", "began", "pledged", "prefill_ahead", "since", "work")

    def __init__(self, scheduler: FairScheduler, work: Work, now: float) -> None:
        self.work, self.since = work, now
        self.began = 0.0  # monotonic seconds; 0: it still waits
        self.prefill_ahead = self._unread = 0
        self.pledged = 0.0
        self._scheduler = scheduler
        self._future: asyncio.Future[None] | None = None

    async def come(self) -> None:
        """Raises what ``cancel`` was given."""
        if not self.began:
            self._future = asyncio.get_running_loop().create_future()
            await self._future

    def cancel(self, reason: Exception) -> None:
        if self._future and not self._future.done():
            self._future.set_exception(reason)

    def begin(self, pledged: float, ahead: int, now: float) -> None:
        """Of the scheduler alone."""
        self.began, self.pledged = now, pledged
        self.prefill_ahead, self._unread = ahead, self.work.prompt
        if self._future and not self._future.done():
            self._future.set_result(None)

    def first_token(self) -> None:
        if self._unread:
            self._scheduler.was_read(self, time.monotonic())

    def leave(self, used: int | None, answers: Sequence[int] = ()) -> None:
        """``used``: tokens; ``None``: unknown, so what was pledged counts. ``answers``: lengths of those that ended."""
        self._scheduler.leave(self, self.pledged if used is None else used, answers)

    def take_unread(self) -> int:
        unread, self._unread = self._unread, 0
        return unread


class FairScheduler:
    """One per worker. Everything runs on its event loop."""

    def __init__(self, table: ShareTable, capacity: CapacityMeter) -> None:
        self._table, self._capacity = table, capacity
        self._queues: dict[int, deque[EngineTurn]] = {}
        self._head: int | None = None  # the tenant that is next; None: to be found out
        self._is_published = False  # to the other workers
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._mean = FIRST_MEAN
        self.prefill = PrefillMeter()

    def ask(self, work: Work) -> EngineTurn:
        """Queue a call; it may begin at once."""
        now = time.monotonic()
        turn = EngineTurn(self, work, now)
        with self._table.locked():
            self._table.arrive(work.tenant, work.sequences, work.prompt, now)
            self._queues.setdefault(work.tenant, deque()).append(turn)
            if self._head is not None and self._rank(work.tenant) < self._rank(self._head):
                self._head = work.tenant
        self._serve()
        return turn

    def was_read(self, turn: EngineTurn, now: float) -> None:
        self.prefill.observe(turn.prefill_ahead, now - turn.began)
        self._assume_read(turn)

    def _assume_read(self, turn: EngineTurn) -> None:
        with self._table.locked():
            self._table.prefill(-turn.take_unread())
        self._serve()

    def leave(self, turn: EngineTurn, used: float, answers: Sequence[int]) -> None:
        work, table = turn.work, self._table
        for tokens in answers:
            self._mean += (tokens - self._mean) / MEMORY
        with table.locked():
            if turn.began:
                table.end(work.tenant, work.sequences, turn.pledged, used)
                table.prefill(-turn.take_unread())
                self._head = None if work.tenant in self._queues else self._head
            elif self._forget(turn):
                table.give_up(work.tenant, work.sequences, work.prompt)
        self._serve()

    def _forget(self, turn: EngineTurn) -> bool:
        queue = self._queues.get(turn.work.tenant)
        if queue is None or turn not in queue:
            return False
        queue.remove(turn)
        self._head = None
        if not queue:
            del self._queues[turn.work.tenant]
        return True

    # whose turn it is
    def _serve(self) -> None:
        """Let begin what may; look again soon while somebody waits."""
        if not self._queues and not self._is_published:
            return
        now, table = time.monotonic(), self._table
        with table.locked():
            while turn := self._next(now):
                self._begin(turn, now)
            head = self._first()
            table.publish(head or 0, 0.0 if head is None else self._queues[head][0].since, now)
        self._is_published = bool(self._queues)
        if self._queues and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looks += 1
        if self._looks % RANK_LOOKS == 0:
            self._head = None
        self._serve()

    def _rank(self, tenant: int) -> tuple[float, float]:
        return self._table.rank(tenant), self._queues[tenant][0].since

    def _first(self) -> int | None:
        """The tenant with the smallest counter; found anew only after something has changed, for there may be many."""
        if self._head is None and self._queues:
            self._head = min(self._queues, key=self._rank)
        return self._head

    def _next(self, now: float) -> EngineTurn | None:
        tenant, capacity = self._first(), self._capacity.capacity
        if tenant is None:
            return None
        turn = self._queues[tenant][0]
        if capacity is None or (self._fits(turn, capacity, now) and self._is_first(tenant, now)):
            return turn
        return self._from_reserve(capacity, now)

    def _is_first(self, tenant: int, now: float) -> bool:
        """No other worker has somebody who comes before this tenant."""
        own, rank = self._rank(tenant), self._table.rank
        return all((rank(other), since) >= own for other, since in self._table.heads(now))

    def _from_reserve(self, capacity: Capacity, now: float) -> EngineTurn | None:
        table, reserve = self._table, capacity.reserve
        room = capacity.most + capacity.on_the_way - table.flight()
        if room <= 0 or (len(self._queues) == 1 and table.is_alone(next(iter(self._queues)), now)):
            return None
        heads = (queue[0].work for queue in self._queues.values())
        few = [w.tenant for w in heads if w.sequences <= min(room, reserve - table.flight(w.tenant))]
        return self._queues[min(few, key=self._rank)][0] if few else None

    def _fits(self, turn: EngineTurn, capacity: Capacity, now: float) -> bool:
        work, table = turn.work, self._table
        flight, unread = table.flight(), table.unread
        limit = capacity.limit(alone=table.is_alone(work.tenant, now))
        fits = not flight or flight + work.sequences <= limit
        return fits and (not unread or unread + work.prompt <= self.prefill.window)

    def _begin(self, turn: EngineTurn, now: float) -> None:
        work, table = turn.work, self._table
        self._forget(turn)
        capacity = self._capacity.capacity
        has_room = capacity is None or table.flight() + work.sequences <= capacity.most
        answer = min(work.most, self._mean) if work.most else self._mean
        pledged = work.prompt + work.sequences * answer
        table.begin(work.tenant, work.sequences, work.prompt, pledged)
        turn.begin(pledged, table.unread if has_room else 0, now)  # waiting for a place tells nothing about reading
        if not work.streams:
            asyncio.get_running_loop().call_later(self.prefill.seconds(table.unread), self._assume_read, turn)

    # what a newcomer would meet
    @property
    def waiting_here(self) -> int:
        """Calls that wait in this worker."""
        return sum(map(len, self._queues.values()))

    @property
    def waiting(self) -> int:
        """Sequences that wait in all workers."""
        with self._table.locked():
            return self._table.waiting()

    def first_token_seconds(self, work: Work, ended_per_second: float) -> float:
        """Predicted time to the first token of ``work``, were it to arrive now; 0 while too little is known."""
        table, capacity, now = self._table, self._capacity.capacity, time.monotonic()
        with table.locked():
            sharers = len({work.tenant, *self._queues, *(tenant for tenant, _ in table.heads(now))})
            ahead = table.waiting(work.tenant)
            full = capacity is not None and table.flight() + work.sequences > capacity.most
            unread = table.unread
            prompts = table.waiting_prompts(work.tenant)
        read = self.prefill.seconds(unread + work.prompt + sharers * prompts)
        if not (ahead or full) or not ended_per_second:
            return read
        return max(read, math.ceil(ahead + work.sequences) * sharers / ended_per_second)
