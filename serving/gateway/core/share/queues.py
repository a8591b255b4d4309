"""Calls that wait in one worker: a queue per tenant, served by the tenants' counters."""

from __future__ import annotations

from collections import deque

from serving.gateway.core.share.table import ShareTable
from serving.gateway.core.share.turn import EngineTurn

Rank = tuple[float, float]  # the smallest is next: tokens given to the tenant, and the order of its first call


class TenantQueues:
    """Every method needs the lock of ``table``."""

    def __init__(self, table: ShareTable) -> None:
        self._table = table
        self._queues: dict[int, deque[EngineTurn]] = {}
        self._first: int | None = None  # the tenant that is next; None: find it by looking at all

    def __len__(self) -> int:
        """Calls that wait."""
        return sum(map(len, self._queues.values()))

    @property
    def tenants(self) -> set[int]:
        return set(self._queues)

    def rank(self, tenant: int) -> Rank:
        return self._table.rank(tenant), self._queues[tenant][0].order

    def add(self, turn: EngineTurn) -> None:
        tenant = turn.work.tenant
        queue = self._queues.setdefault(tenant, deque())
        at = len(queue)
        while at and queue[at - 1].order > turn.order:
            at -= 1
        queue.insert(at, turn)
        self.moved(tenant)

    def moved(self, tenant: int) -> None:
        """Call it when one tenant's counter has changed."""
        if tenant in self._queues and self._first is not None and self.rank(tenant) < self.rank(self._first):
            self._first = tenant

    def forget(self, turn: EngineTurn) -> bool:
        """Remove a call; returns whether it was waiting."""
        queue = self._queues.get(turn.work.tenant)
        if queue is None or turn not in queue:
            return False
        queue.remove(turn)
        self._first = None
        if not queue:
            del self._queues[turn.work.tenant]
        return True

    def changed(self) -> None:
        """Call it when any counters may have changed."""
        self._first = None

    def first(self) -> EngineTurn | None:
        if self._first is None and self._queues:
            self._first = min(self._queues, key=self.rank)
        return None if self._first is None else self._queues[self._first][0]

    def first_of_few(self, room: int, few: int) -> EngineTurn | None:
        """The first call of a tenant that would not have more than ``few`` sequences at the engine."""
        works = (queue[0].work for queue in self._queues.values())
        fits = [w.tenant for w in works if w.sequences <= min(room, few - self._table.flight(w.tenant))]
        return self._queues[min(fits, key=self.rank)][0] if fits else None
