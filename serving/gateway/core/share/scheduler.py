"""Whose request goes to the engine next: tokens are shared among tenants, over all workers.

The engine is given no more sequences than it decodes at once, and no more unread prompt tokens than keep it busy; the
rest waits here, in one queue per tenant. The tenant with the smallest counter (``table``) is next. While there is room
nobody waits, and the scheduler costs only a few additions.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Sequence

from serving.gateway.core.share.capacity import Capacity, CapacityMeter
from serving.gateway.core.share.prefill import PrefillMeter
from serving.gateway.core.share.queues import TenantQueues
from serving.gateway.core.share.table import ShareTable
from serving.gateway.core.share.turn import EngineTurn, Work

LOOK_SECONDS = 0.005  # how often the other workers' places are checked while requests wait here
RANK_LOOKS = 10  # after this many looks the order is recomputed, because other workers change it too
FIRST_MEAN = 128.0  # tokens of an answer, until some have been seen
MOST_LONG = 2  # long prompts that the engine reads at a time
MEMORY = 50  # answers over which their mean length and time are taken


class FairScheduler:
    """One per worker. Everything runs on its event loop."""

    def __init__(self, table: ShareTable, capacity: CapacityMeter) -> None:
        self._table, self._capacity = table, capacity
        self._short, self._long = TenantQueues(table), TenantQueues(table)
        self._timer: asyncio.TimerHandle | None = None
        self._is_published = False  # to the other workers
        self._looks = 0
        self._mean = FIRST_MEAN
        self._seconds, self._ended = 0.0, 0  # mean time of a sequence at the engine; how many have been seen
        self.prefill = PrefillMeter()

    def ask(self, work: Work) -> EngineTurn:
        """Queue a call; it may begin at once."""
        now = time.monotonic()
        turn = EngineTurn(self, work, now, is_long=work.prompt > self.prefill.long)
        with self._table.locked():
            self._table.arrive(work.tenant, work.sequences, work.prompt, now)
            self._queues_of(turn).add(turn)
        self._serve()
        return turn

    def _queues_of(self, turn: EngineTurn) -> TenantQueues:
        return self._long if turn.is_long else self._short

    def was_read(self, turn: EngineTurn, now: float) -> None:
        if turn.work.streams:
            self.prefill.observe(turn.prefill_ahead, now - turn.began)
        self._assume_read(turn)

    def _assume_read(self, turn: EngineTurn) -> None:
        with self._table.locked():
            self._forget_unread(turn)
        self._serve()

    def _forget_unread(self, turn: EngineTurn) -> None:
        if tokens := turn.take_unread():
            self._table.unread(-tokens, is_long=turn.is_long)

    def leave(self, turn: EngineTurn, used: float, answers: Sequence[int]) -> None:
        work, table, now = turn.work, self._table, time.monotonic()
        for tokens in answers:
            self._mean += (tokens - self._mean) / MEMORY
            self._ended += 1
            self._seconds += (now - turn.began - self._seconds) / min(self._ended, MEMORY)
        if len(answers) == work.sequences:
            self._learn(turn, max(answers), now)
        with table.locked():
            if turn.began:
                table.end(work.tenant, work.sequences, turn.pledged, used)
                self._forget_unread(turn)
                self._short.moved(work.tenant)
                self._long.moved(work.tenant)
            elif self._queues_of(turn).forget(turn):
                table.give_up(work.tenant, work.sequences, work.prompt)
        self._serve()

    def _learn(self, turn: EngineTurn, made: int, now: float) -> None:
        if not turn.work.streams:
            self.prefill.observe_whole(turn.prefill_ahead, now - turn.began, made)
        elif turn.read:
            self.prefill.observe_steps(made - 1, now - turn.read)

    # whose turn it is
    def _serve(self) -> None:
        """Begin every call that may; look again soon while others wait."""
        if not self._is_published and not self.waiting_here:
            return
        now, table = time.monotonic(), self._table
        with table.locked():
            while turn := self._next(now):
                self._begin(turn, now)
            head = self._short.first()
            table.publish(head.work.tenant if head else 0, head.order if head else 0.0, now)
        self._is_published = bool(self.waiting_here)
        if self._is_published and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looks += 1
        if self._looks % RANK_LOOKS == 0:
            self._short.changed()
            self._long.changed()
        self._serve()

    def _next(self, now: float) -> EngineTurn | None:
        """Short prompts do not wait behind long ones that are held back, nor the other way round."""
        capacity, kinds = self._capacity.capacity, (self._short, self._long)
        heads = [(queues.rank(turn.work.tenant), turn) for queues in kinds if (turn := queues.first())]
        for _, turn in sorted(heads, key=operator.itemgetter(0)):
            if capacity is None or (self._fits(turn, capacity, now) and self._is_first(turn, now)):
                return turn
        return self._from_reserve(capacity, now) if heads and capacity else None

    def _is_first(self, turn: EngineTurn, now: float) -> bool:
        """No other worker has a request that comes before this one. Workers publish short prompts only."""
        own, rank = self._queues_of(turn).rank(turn.work.tenant), self._table.rank
        return turn.is_long or all((rank(other), order) >= own for other, order in self._table.heads(now))

    def _from_reserve(self, capacity: Capacity, now: float) -> EngineTurn | None:
        table, tenants = self._table, self._short.tenants | self._long.tenants
        room = capacity.most + capacity.on_the_way - table.flight()
        if room <= 0 or (len(tenants) == 1 and table.is_alone(min(tenants), now)):
            return None
        return self._short.first_of_few(room, capacity.reserve) or self._long.first_of_few(
            room, min(1, capacity.reserve)
        )

    def _fits(self, turn: EngineTurn, capacity: Capacity, now: float) -> bool:
        work, table = turn.work, self._table
        flight = table.flight()
        if flight and flight + work.sequences > capacity.limit(alone=table.is_alone(work.tenant, now)):
            return False
        if turn.is_long:
            return table.unread_long < MOST_LONG
        unread = table.unread_tokens(with_long=False)
        return not unread or unread + work.prompt <= self.prefill.window

    def _begin(self, turn: EngineTurn, now: float) -> None:
        work, table = turn.work, self._table
        self._queues_of(turn).forget(turn)
        capacity = self._capacity.capacity
        has_room = capacity is None or table.flight() + work.sequences <= capacity.most
        answer = min(work.most, self._mean) if work.most else self._mean
        pledged = work.prompt + work.sequences * answer
        table.begin(work.tenant, work.sequences, work.prompt, pledged, is_long=turn.is_long)
        ahead = table.unread_tokens(with_long=turn.is_long)  # engines read short prompts between parts of long ones
        turn.begin(pledged, ahead if has_room else 0, now)  # waiting for a place tells nothing about reading
        if not work.streams:
            asyncio.get_running_loop().call_later(self.prefill.seconds(ahead), self._assume_read, turn)

    # what a newcomer would meet
    @property
    def waiting_here(self) -> int:
        """Calls that wait in this worker."""
        return len(self._short) + len(self._long)

    @property
    def waiting(self) -> int:
        """Sequences that wait in all workers."""
        with self._table.locked():
            return self._table.waiting()

    @property
    def places_per_second(self) -> float:
        """How many places come free per second while all are taken; 0 while unknown."""
        capacity = self._capacity.capacity
        return capacity.most / self._seconds if capacity and self._seconds else 0.0

    def first_token_seconds(self, work: Work) -> float:
        """Predicted time to the first token of ``work``, were it to arrive now; 0 while too little is known."""
        table, capacity, now = self._table, self._capacity.capacity, time.monotonic()
        with table.locked():
            sharers = self._short.tenants | self._long.tenants | {tenant for tenant, _ in table.heads(now)}
            ahead, shared = table.waiting(work.tenant), len(sharers | {work.tenant})
            full = capacity is not None and table.flight() + work.sequences > capacity.most
            unread = table.unread_tokens(with_long=work.prompt > self.prefill.long)
            prompts = table.waiting_prompts(work.tenant)
        read = self.prefill.seconds(unread + work.prompt + shared * prompts)
        if not (ahead or full) or not self.places_per_second:
            return read
        return max(read, (ahead + work.sequences) * shared / self.places_per_second)
