"""The order of the tenants that wait."""

from __future__ import annotations

from serving.gateway.core.share.capacity import CapacityMeter
from serving.gateway.core.share.queues import TenantQueues
from serving.gateway.core.share.scheduler import FairScheduler
from serving.gateway.core.share.table import ShareTable
from serving.gateway.core.share.turn import EngineTurn, Work

A, B = 1, 2


def test_the_tenant_that_was_given_least_is_first_and_of_equals_the_one_that_waits_longer() -> None:
    table = ShareTable(None, 1)
    queues, scheduler = TenantQueues(table), FairScheduler(table, CapacityMeter())

    def turn(tenant: int, since: float) -> EngineTurn:
        made = EngineTurn(scheduler, Work(tenant, 1, 0), since, is_long=False)
        queues.add(made)
        return made

    later, earlier = turn(A, 2.0), turn(B, 1.0)
    assert queues.first() is earlier and len(queues) == 2
    table.end(B, 0, 0, 10)
    queues.changed()
    assert queues.first() is later
    assert queues.forget(later) and not queues.forget(later)
    assert queues.first() is earlier and queues.tenants == {B}
    table.begin(B, 1, 0, 0)
    assert queues.first_of_few(room=5, few=1) is None and queues.first_of_few(room=5, few=2) is earlier
    assert queues.first_of_few(room=0, few=2) is None
