"""Feeds: where a sequence's chunks and endings go, and what counts as ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import feed
from contract.ack_table import AckTable
from contract.chunks import unpack
from contract.errors import EngineUnavailable
from serving.streaming.clock import Clock
from serving.streaming.feeds import PATIENCE_BEATS, Feeds
from serving.streaming.sequence import ActiveRequest, ActiveSequence
from tests.serving.fakes import FakeSink
from tests.serving.rig import STREAM


@pytest.fixture
def clock(ack_table: AckTable) -> Clock:
    return Clock(ack_table)


@pytest.fixture
def feeds(ack_table: AckTable, clock: Clock, tmp_path: Path) -> Feeds:
    return Feeds(ack_table, clock, tmp_path)


@pytest.fixture
def readers(tmp_path: Path) -> Iterator[list[feed.FeedReader]]:
    readers = [feed.FeedReader(tmp_path, number) for number in range(2)]
    yield readers
    for reader in readers:
        reader.close()


def sequence(slot: int, ids: list[int]) -> ActiveSequence:
    one = ActiveSequence(slot, ActiveRequest("r", FakeSink(), STREAM, open=1), 0, slot, 1, 3, seq=1)
    one.ids = ids
    return one


def got(reader: feed.FeedReader) -> list[tuple[int, list[int]]]:
    """Kind and ids of what is there."""
    if not reader.wait(0):
        return []
    return [
        (kind, next(unpack(words)).ids if kind == feed.CHUNK else words[:2].tolist()) for kind, words in reader.frames()
    ]


def test_each_sequence_goes_to_the_process_that_answers_it(
    feeds: Feeds, ack_table: AckTable, readers: list[feed.FeedReader]
) -> None:
    for slot in range(4):
        ack_table.read_by(slot, 1, slot % 2)
        one = sequence(slot, [slot])
        feeds.send(one, one.take())
    assert not got(readers[0]), "nothing leaves before the turn's end"
    feeds.flush()
    assert [got(reader) for reader in readers] == [
        [(feed.CHUNK, [0]), (feed.CHUNK, [2])],
        [(feed.CHUNK, [1]), (feed.CHUNK, [3])],
    ]


def test_an_ending_waits_for_a_first_chunk_that_is_still_on_its_way(
    feeds: Feeds, ack_table: AckTable, readers: list[feed.FeedReader]
) -> None:
    feeds.end(sequence(5, []))
    feeds.flush()
    assert feeds.ending == 1 and not got(readers[0])
    ack_table.read_by(5, 1, 0)
    feeds.flush()
    assert got(readers[0]) == [(feed.END, [5, 1])]
    assert feeds.ending == 1, "the detokenizer has not said that the answer has ended"
    ack_table.close_answer(5, 1)
    assert feeds.ending == 0


def test_an_error_leaves_when_the_others_have_ended(
    feeds: Feeds, ack_table: AckTable, readers: list[feed.FeedReader]
) -> None:
    """They may be read by other threads and processes, so their order is not that of the frames."""
    early, other, teller = (sequence(slot, []) for slot in range(3))
    ack_table.read_by(1, 1, 1)
    ack_table.read_by(2, 1, 0)
    feeds.end(early)
    feeds.end(other)
    feeds.end(teller, EngineUnavailable("engine: gone"), after=[early, other])
    for slot in (0, 1):
        feeds.flush()
        assert not got(readers[0])
        ack_table.close_answer(slot, 1)
    feeds.flush()
    assert got(readers[0]) == [(feed.ERROR, [2, 1])]


def test_an_ending_for_an_answer_that_never_opens_is_given_up(feeds: Feeds, ack_table: AckTable, clock: Clock) -> None:
    feeds.end(sequence(5, []), EngineUnavailable("engine: gone"))
    for _ in range(PATIENCE_BEATS):
        ack_table.beat(0)
        clock.look()
    feeds.flush()
    assert feeds.ending == 0


def test_nothing_is_sent_to_an_answer_that_has_ended(
    feeds: Feeds, ack_table: AckTable, readers: list[feed.FeedReader]
) -> None:
    ack_table.close_answer(5, 1)
    feeds.end(sequence(5, []))
    feeds.flush()
    assert feeds.ending == 0 and not got(readers[0])


def test_a_process_that_is_gone_raises_nothing(feeds: Feeds, ack_table: AckTable) -> None:
    """The missing acknowledgement tells."""
    ack_table.read_by(5, 1, 1)
    one = sequence(5, [1])
    feeds.send(one, one.take())
    feeds.flush()
    assert feeds.reaches(one)
    feeds.give_up()
    assert not feeds.reaches(one)


def test_a_slots_next_owner_says_that_the_last_one_has_ended(
    feeds: Feeds, ack_table: AckTable, readers: list[feed.FeedReader]
) -> None:
    ack_table.read_by(5, 1, 0)
    feeds.end(sequence(5, []))
    assert feeds.ending == 1
    ack_table.read_by(5, 2, 0)
    assert feeds.ending == 0
