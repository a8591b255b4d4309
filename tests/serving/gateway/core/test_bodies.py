"""Memory for bodies."""

from __future__ import annotations

import pytest

from serving.gateway.core.bodies import SMALL, BodyMemory
from serving.gateway.schema.errors import ApiError

MIB = 1 << 20


def test_half_a_body_makes_room_for_others_longest_first() -> None:
    memory = BodyMemory(10 * MIB)
    first, second = memory.begin(), memory.begin()
    first.grow(4 * MIB)
    second.grow(4 * MIB)
    with memory.begin() as third:
        third.grow(4 * MIB)
        assert first.is_evicted and not second.is_evicted
        with pytest.raises(ApiError) as late:
            first.grow(0)
        assert late.value.status == 408 and late.value.close


def test_whole_bodies_stay_until_they_are_left() -> None:
    memory = BodyMemory(10 * MIB)
    with memory.begin() as whole:
        whole.grow(8 * MIB)
        whole.arrived()
        with memory.begin() as other:
            with pytest.raises(ApiError) as full:
                other.grow(3 * MIB)
            assert full.value.status == 429 and full.value.retry_after
        with memory.begin() as small:
            small.grow(SMALL)
    with memory.begin() as other:
        other.grow(10 * MIB)
