"""Whose turn it is, with one worker and with two."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.gateway.core.share import scheduler as module
from serving.gateway.core.share.capacity import CapacityMeter
from serving.gateway.core.share.scheduler import FairScheduler
from serving.gateway.core.share.table import ShareTable
from serving.gateway.core.share.turn import EngineTurn, Work

A, B, C = 1, 2, 3


def places(count: int) -> CapacityMeter:
    meter = CapacityMeter()
    meter.observe(count, 0, 0, 0)
    return meter


@pytest.fixture
def one() -> FairScheduler:
    return FairScheduler(ShareTable(None, 1), places(4))


def ask(
    scheduler: FairScheduler, tenant: int, count: int = 1, *, prompt: int = 10, sequences: int = 1
) -> list[EngineTurn]:
    return [scheduler.ask(Work(tenant, sequences, prompt, 100)) for _ in range(count)]


def began(turns: list[EngineTurn]) -> int:
    return sum(bool(turn.began) for turn in turns)


async def test_nobody_waits_while_there_is_room(one: FairScheduler) -> None:
    turns = ask(one, A, 6)
    assert began(turns) == 6, "4 places and a short queue in the engine"
    await asyncio.wait_for(turns[0].come(), 60)
    assert one.waiting == 0


async def test_nobody_waits_for_an_engine_that_does_not_say_how_much_it_takes() -> None:
    unknown = FairScheduler(ShareTable(None, 1), CapacityMeter())
    assert began(ask(unknown, A, 500)) == 500


async def test_of_one_tenants_requests_those_of_higher_priority_go_first(one: FairScheduler) -> None:
    """In this worker and among all; over HTTP the engine hardly ever has a queue that it could sort."""
    running = ask(one, A, 6)
    waiting = [one.ask(Work(A, 1, 10, 100, priority=priority)) for priority in (0, -3, 5, 0, 1000, -1000, 5)]
    order = []
    for _ in waiting:
        running.pop(0).leave(50)
        order += [turn for turn in waiting if turn.began and turn not in order]
        running += order[-1:]
    assert [waiting.index(turn) for turn in order] == [4, 2, 6, 0, 3, 1, 5]


async def test_a_flood_does_not_come_before_a_single_request(one: FairScheduler) -> None:
    flood = ask(one, A, 500)
    assert began(flood) == 6 and one.waiting == 494
    (single,) = ask(one, B)
    assert not single.began
    for turn in flood[:3]:  # 3 of 6 end; 4 places are left
        turn.leave(50)
    assert single.began and began(flood) == 6, "the first free place is the single request's"


async def test_a_reserve_is_kept_while_others_are_about() -> None:
    scheduler = FairScheduler(ShareTable(None, 1), places(64))
    (earlier,) = ask(scheduler, B)
    earlier.leave(20)
    flood = ask(scheduler, A, 500)
    assert began(flood) == 62
    assert began(ask(scheduler, B, 3)) == 2, "at once; with two the tenant is no longer one with few"
    assert began(ask(scheduler, C)) == 0


def run(turns: list[EngineTurn], ends: int) -> None:
    """Let requests end, in the order in which they began, each having used what was charged."""
    ended: set[int] = set()
    for _ in range(ends):
        turn = min((t for t in turns if t.began and id(t) not in ended), key=lambda t: t.began)
        ended.add(id(turn))
        turn.first_token()
        turn.leave(None)


async def test_tokens_are_shared_not_requests(one: FairScheduler) -> None:
    long, short = ask(one, A, 200, prompt=900), ask(one, B, 200, prompt=0)
    run(long + short, 110)
    assert abs(1000 * began(long) - 100 * began(short)) <= 1000


async def test_what_was_charged_is_corrected_at_the_end(one: FairScheduler) -> None:
    table = one._table
    (turn,) = ask(one, A)
    assert (table.rank(A), table.counter(A)) == (10 + 100, 0)
    turn.leave(35, [25])
    assert (table.rank(A), table.counter(A)) == (35, 35)
    (turn,) = ask(one, A)
    turn.leave(None)
    assert table.rank(A) == table.counter(A) == 145, "it was left before the engine had said anything"


async def test_unread_prompts_at_the_engine_are_bounded() -> None:
    scheduler = FairScheduler(ShareTable(None, 1), places(256))
    turns = ask(scheduler, A, 20, prompt=3000)
    assert began(turns) == 5, "16,384 tokens while the speed of reading is unknown"
    turns[0].first_token()
    assert began(turns) > 5


async def test_long_prompts_wait_for_each_other_and_short_ones_for_none_of_them() -> None:
    scheduler = FairScheduler(ShareTable(None, 1), places(256))
    long = ask(scheduler, A, 10, prompt=100_000)
    assert began(long) == 2
    assert began(ask(scheduler, A, 3)) == 3 and began(ask(scheduler, B, 3)) == 3
    long[0].first_token()
    assert began(long) == 3
    long[2].leave(None)
    assert began(long) == 4


async def test_the_first_tokens_of_whole_answers_are_never_seen() -> None:
    scheduler = FairScheduler(ShareTable(None, 1), places(256))
    turns = [scheduler.ask(Work(A, 1, 8000, streams=False)) for _ in range(10)]
    await asyncio.sleep(0.05)
    assert began(turns) == 10


async def test_reading_is_learnt_from_whole_answers(one: FairScheduler) -> None:
    for prompt, answer, seconds in ((10, 100, 1.0), (6000, 100, 4.0)):
        turn = one.ask(Work(A, 1, prompt, streams=False))
        turn.began -= seconds
        turn.first_token()  # the whole answer
        turn.leave(prompt + answer, [answer])
    assert one.prefill.mean == pytest.approx(2000, rel=0.02), "3 s, for the steps took one"


async def test_a_request_larger_than_the_engine_gets_its_turn(one: FairScheduler) -> None:
    small = ask(one, A, 2)
    (large,) = ask(one, A, sequences=16)
    assert not large.began
    run(small, 2)
    assert large.began


async def test_leaving_the_queue(one: FairScheduler) -> None:
    running, waiting = ask(one, A, 6), ask(one, A, 3)
    task = asyncio.ensure_future(waiting[1].come())
    await asyncio.sleep(0)
    waiting[1].cancel(RuntimeError("gone"))
    with pytest.raises(RuntimeError, match="gone"):
        await task
    waiting[1].leave(None)
    assert one.waiting == 2
    run(running, 2)
    assert [bool(turn.began) for turn in waiting] == [True, False, True]


async def test_workers_serve_in_one_order(tmp_path: Path) -> None:
    """A floods one worker; B's request waits in another one, and has the next free place within milliseconds."""
    first, second = (FairScheduler(ShareTable(tmp_path / "shares", 2), places(4)) for _ in range(2))
    flood = ask(first, A, 100)
    (single,) = ask(second, B)
    for turn in flood[:2]:
        turn.leave(None)
    assert not single.began
    begin = time.monotonic()
    flood[2].leave(None)
    assert began(flood) == 6, "the place is not taken by who is nearer"
    await asyncio.wait_for(single.come(), 60)
    assert time.monotonic() - begin < 20 * module.LOOK_SECONDS


async def test_one_tenant_waits_in_one_line(tmp_path: Path) -> None:
    first, second = (FairScheduler(ShareTable(tmp_path / "shares", 2), places(4)) for _ in range(2))
    flood = ask(first, A, 6)
    elsewhere = ask(second, A)
    later = ask(first, A, 5)
    for turn in flood[:3]:
        turn.leave(None)
        await asyncio.sleep(3 * module.LOOK_SECONDS)
    assert began(elsewhere) == 1 and began(later) == 2


async def test_a_worker_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    first, second = (FairScheduler(ShareTable(tmp_path / "shares", 2), places(4)) for _ in range(2))
    flood = ask(first, A, 6)
    hangs = ask(second, B)
    assert second._timer is not None
    second._timer.cancel()
    more = ask(first, A, 3)
    run(flood, 4)
    await asyncio.sleep(0.2)
    assert began(more) >= 1 and began(hangs) == 0


async def test_predicted_first_tokens(one: FairScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    now, work = [1000.0], Work(B, 1, 500, 100)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert one.first_token_seconds(work) == one.places_per_second == 0, "nothing is known yet"
    one.prefill.observe(10_000, 1.0)
    assert one.first_token_seconds(work) == pytest.approx(0.05)
    (earlier,) = ask(one, A)
    now[0] += 2.0
    earlier.leave(100, [50])
    assert one.places_per_second == pytest.approx(2), "four places, each taken for two seconds"
    ask(one, A, 6)
    assert one.first_token_seconds(work) == pytest.approx(0.5), "the engine is full"
    ask(one, B, 9)
    assert one.first_token_seconds(work) == pytest.approx(5.0)
    ask(one, C, 9)
    assert one.first_token_seconds(work) == pytest.approx(10.0), "every other place"
