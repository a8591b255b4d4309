"""The detokenizer's time: as fast as its slowest process, and no faster than this one looks."""

from __future__ import annotations

import pytest

from contract.ack_table import AckTable
from serving.streaming.clock import MOST_PER_LOOK, Clock


@pytest.fixture
def clock(ack_table: AckTable) -> Clock:
    return Clock(ack_table)


def test_it_goes_as_fast_as_the_slowest_process(ack_table: AckTable, clock: Clock) -> None:
    for beats in ([2, 1], [2, 0], [0, 3]):
        for reader, count in enumerate(beats):
            for _ in range(count):
                ack_table.beat(reader)
        clock.look()
    assert clock.now == 1 + 0 + 2


def test_a_hanging_process_stops_it_whichever_it_is(ack_table: AckTable, clock: Clock) -> None:
    for reader in range(4):
        ack_table.beat(reader)
    clock.look()
    for _ in range(100):
        for reader in (0, 1, 3):
            ack_table.beat(reader)
        clock.look()
    assert clock.now == 1


def test_what_passed_while_nobody_looked_does_not_count(ack_table: AckTable, clock: Clock) -> None:
    for _ in range(100):
        ack_table.beat(0)
    clock.look()
    clock.look()
    assert clock.now == MOST_PER_LOOK


def test_without_a_process_no_time_passes(clock: Clock) -> None:
    clock.look()
    assert clock.now == 0
