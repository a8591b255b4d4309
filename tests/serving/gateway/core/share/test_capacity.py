"""Places at the engine."""

from __future__ import annotations

from serving.gateway.core.share.capacity import Capacity, CapacityMeter


def test_nothing_is_held_back_while_nothing_is_known() -> None:
    meter = CapacityMeter()
    assert meter.capacity is None
    meter.observe(0, 5, 100, 0)
    assert meter.capacity is None


def test_whoever_is_alone_gets_every_place_and_a_short_queue() -> None:
    assert Capacity(256).limit(alone=True) == 288 and Capacity(256).limit(alone=False) == 248
    assert Capacity(256, on_the_way=4).limit(alone=False) == 252
    assert Capacity(1).limit(alone=False) == 1 and Capacity(1).reserve == 0


def test_an_engine_whose_cache_is_full_gets_fewer() -> None:
    meter = CapacityMeter()
    meter.observe(256, 100, 150, 0)
    assert meter.capacity == Capacity(256), "a burst is no full cache"
    meter.observe(256, 90, 140, 0)
    assert meter.capacity == Capacity(100)
    meter.observe(256, 100, 3, 20)
    assert meter.capacity == Capacity(125, 1)
    for _ in range(10):
        meter.observe(256, 100, 0, 0)
    assert meter.capacity == Capacity(256)
    meter.observe(0, 0, 0, 0)  # another engine, or none
    assert meter.capacity is None
