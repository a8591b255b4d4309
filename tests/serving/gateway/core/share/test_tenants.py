"""Who is a tenant, and how many requests it may have open."""

from __future__ import annotations

import pytest

from serving.gateway.core.auth import Key
from serving.gateway.core.share.tenants import TenantSlots, tenant_of
from serving.gateway.schema.errors import ApiError


def test_a_key_then_a_user_then_an_address() -> None:
    key = Key("a", b"", 0, 7)
    assert tenant_of(key, "user", "10.0.0.1") == 7
    assert tenant_of(None, "user", "10.0.0.1") == tenant_of(None, "user", "10.0.0.2")
    assert tenant_of(None, "", "10.0.0.1") != tenant_of(None, "", "10.0.0.2")
    assert tenant_of(None, "10.0.0.1", "") != tenant_of(None, "", "10.0.0.1")


def filled(slots: TenantSlots, tenant: int) -> int:
    taken = 0
    with pytest.raises(ApiError) as refused:
        while True:
            slots.take(tenant, lambda: 3)
            taken += 1
    assert refused.value.status == 429 and refused.value.retry_after == 3
    return taken


def test_nobody_takes_the_last_slots_from_the_others() -> None:
    slots = TenantSlots(512)
    assert filled(slots, 1) == 448
    assert filled(slots, 2) == 56
    for _ in range(448):
        slots.give_back(1)
    assert filled(slots, 2) == 448 - 56


def test_a_newcomer_always_gets_one() -> None:
    slots = TenantSlots(2)
    assert filled(slots, 1) == 2
    slots.take(2, lambda: 3)
