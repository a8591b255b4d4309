"""Open answers: the first chunk opens one, the feed goes on with it, and every ending ends it exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer

from contract import feed
from contract.ack_table import CLOSED, GONE, AckTable
from contract.chunks import Chunk, IntArray, TextOptions, join, pack
from contract.errors import EngineUnavailable, InternalError, InvalidRequest, ServingError, to_wire
from contract.finish import FINISH_CODES
from serving.detokenizer.answers import Answers
from serving.detokenizer.step import Detokenizer
from serving.detokenizer.text import TokenBytes

LENGTH, STOP, CANCELLED = (FINISH_CODES.index(name) for name in ("length", "stop", "cancelled"))
READER = 3


@dataclass
class FakeReply:
    texts: list[str] = field(default_factory=list)
    error: ServingError | None = None
    ends: int = 0
    broken: bool = False  # for text
    mute: bool = False  # for errors too
    gone: bool = False

    def is_gone(self) -> bool:
        return self.gone

    def send(self, chunks: list[Chunk], final: bool) -> None:
        assert not self.ends, "a response after the last one"
        if self.broken:
            raise RuntimeError("the response sender is closed")
        self.texts += [chunk.text for chunk in chunks]
        self.ends += final

    def fail(self, error: ServingError) -> None:
        if self.mute:
            raise RuntimeError("no shared memory for the error")
        self.error = error
        self.ends += 1

    def drop(self) -> None:
        self.ends += 1


@dataclass
class Desk:
    """Answers over a real detokenizer, with chunks made of letters."""

    answers: Answers
    table: AckTable
    tokenizer: Tokenizer

    def words(
        self, text: str, seq: int, *, slot: int = 0, generation: int = 1, finish: int = 0,
        options: TextOptions | None = None,
    ) -> IntArray:  # fmt: skip
        ids = [self.tokenizer.token_to_id(letter) for letter in text]
        first = orjson.dumps(options or TextOptions()) if seq == 1 else b""
        return pack(slot, generation, seq, 0, 5, len(ids), 0, finish, ids, options=first)

    def open(self, text: str, **more: object) -> FakeReply:
        reply = FakeReply()
        self.answers.receive(self.words(text, 1, **more), reply)  # type: ignore[arg-type]
        return reply

    def feed(self, text: str, seq: int, **more: object) -> None:
        self.answers.feed(feed.CHUNK, self.words(text, seq, **more))  # type: ignore[arg-type]


@pytest.fixture
def desk(token_bytes: TokenBytes, tokenizer: Tokenizer, ack_table: AckTable) -> Desk:
    return Desk(Answers(Detokenizer(token_bytes, lambda: ack_table, [READER])), ack_table, tokenizer)


def test_a_stream_opens_goes_on_and_ends(desk: Desk) -> None:
    reply = desk.open("ab")
    assert reply.texts == ["ab"] and desk.table.reader(0, 1) == READER and desk.table.acked(0, 1, 1)
    desk.feed("c", 2)
    assert desk.table.acked(0, 1, 2) and not reply.ends
    desk.feed("d", 3, finish=LENGTH)
    assert reply.texts == ["ab", "c", "d"] and reply.ends == 1 and desk.table.reader(0, 1) == CLOSED


def test_an_answer_in_one_response_is_closed_at_once(desk: Desk) -> None:
    whole, several, cancel = desk.open("ab", finish=LENGTH), FakeReply(), FakeReply()
    desk.answers.receive(join([desk.words(t, 1, slot=i + 1, finish=LENGTH) for i, t in enumerate("cd")]), several)
    desk.answers.receive(pack(-1, 0, 1, 0, 0, 0, 0, CANCELLED, []), cancel)
    assert (whole.texts, several.texts, cancel.texts) == (["ab"], ["c", "d"], [""])
    assert (whole.ends, several.ends, cancel.ends) == (1, 1, 1)


def test_a_probe_leaves_a_mark_and_no_response(desk: Desk) -> None:
    answer, probe = desk.open("a"), FakeReply()
    desk.answers.receive(pack(0, 1, 0, 0, 0, 4, 0, 0, []), probe)
    assert desk.table.probed(0, 1, 4) and not desk.table.probed(0, 1, 3) and desk.table.acked(0, 1, 1)
    assert (probe.texts, probe.ends, answer.ends) == ([], 1, 0)
    desk.feed("b", 2, finish=LENGTH)
    assert answer.texts == ["a", "b"]


def test_a_probe_tells_that_the_client_is_gone(desk: Desk) -> None:
    answer, probe = desk.open("a"), FakeReply(gone=True)
    desk.answers.receive(pack(0, 1, 0, 0, 0, 4, 0, 0, []), probe)
    assert desk.table.probed(0, 1, GONE) and (probe.texts, probe.ends, answer.ends) == ([], 1, 0)


def test_a_stop_string_across_the_two_ways_is_found(desk: Desk) -> None:
    reply = desk.open("aEN", options=TextOptions(stops=("END",)))
    desk.feed("Db", 2)
    assert desk.table.stopped(0, 1) and "".join(reply.texts) == "a"
    desk.feed("", 3, finish=CANCELLED)
    assert "".join(reply.texts) == "a" and reply.ends == 1


@pytest.mark.parametrize("error", [InvalidRequest("guide", "cannot be met"), EngineUnavailable("engine: gone")])
def test_an_error_ends_the_answer_behind_its_text(desk: Desk, error: ServingError) -> None:
    reply = desk.open("a")
    desk.answers.feed(feed.ERROR, error_words(0, 1, to_wire(error)))
    assert reply.texts == ["a"] and type(reply.error) is type(error) and str(reply.error) == str(error)
    assert reply.ends == 1 and desk.table.reader(0, 1) == CLOSED


def test_an_end_ends_it_silently_and_once(desk: Desk) -> None:
    reply = desk.open("a")
    for _ in range(2):
        desk.answers.feed(feed.END, np.array([0, 1], dtype=np.int32))
    desk.feed("b", 2)
    assert reply.texts == ["a"] and reply.ends == 1 and reply.error is None


def test_frames_of_a_slots_earlier_owner_concern_nobody(desk: Desk) -> None:
    desk.open("a")
    desk.answers.feed(feed.END, np.array([0, 1], dtype=np.int32))
    new = desk.open("x", generation=2)
    desk.feed("b", 2)
    desk.answers.feed(feed.END, np.array([0, 1], dtype=np.int32))
    desk.feed("y", 2, generation=2, finish=LENGTH)
    assert new.texts == ["x", "y"] and new.ends == 1


def test_a_slot_given_away_without_a_last_word_ends_its_old_answer(desk: Desk) -> None:
    old = desk.open("a")
    new = desk.open("x", generation=2)
    assert old.ends == 1 and not new.ends


def test_a_chunk_that_cannot_be_read_fails_its_own_answer_alone(desk: Desk) -> None:
    sick, well = desk.open("a"), desk.open("x", slot=1)
    desk.feed("c", 3)
    assert isinstance(sick.error, InternalError) and sick.ends == 1
    assert not desk.table.acked(0, 1, 3)
    desk.feed("y", 2, slot=1, finish=LENGTH)
    assert well.texts == ["x", "y"]
    sent_again = desk.open("a")
    assert isinstance(sent_again.error, InternalError) and sent_again.ends == 1


def test_a_reply_that_breaks_is_not_acknowledged_and_hurts_nobody_else(desk: Desk) -> None:
    broken, well = desk.open("a"), desk.open("x", slot=1)
    broken.broken = True
    desk.feed("b", 2)
    assert not desk.table.acked(0, 1, 2)
    desk.feed("y", 2, slot=1, finish=LENGTH)
    assert well.texts == ["x", "y"]


@pytest.mark.parametrize("finish", [0, LENGTH])
@pytest.mark.parametrize("mute", [False, True])
def test_a_reply_that_takes_nothing_more_is_ended_once_and_the_engine_told(desk: Desk, finish: int, mute: bool) -> None:
    """Shared memory is full: the thread that reads the feed must not end of it."""
    reply = desk.open("a")
    reply.broken, reply.mute = True, mute
    desk.feed("b", 2, finish=finish)
    desk.answers.feed(feed.END, np.array([0, 1], dtype=np.int32))
    assert reply.ends == 1 and desk.table.reader(0, 1) == CLOSED
    assert mute or isinstance(reply.error, InternalError)


@pytest.mark.parametrize("mute", [False, True])
def test_a_first_chunk_that_cannot_be_sent_leaves_no_answer(desk: Desk, mute: bool) -> None:
    reply = FakeReply(broken=True, mute=mute)
    desk.answers.receive(desk.words("a", 1), reply)
    desk.answers.feed(feed.END, np.array([0, 1], dtype=np.int32))
    assert reply.ends == 1 and desk.table.reader(0, 1) == CLOSED and not desk.table.acked(0, 1, 1)


def test_an_old_answer_that_cannot_be_ended_does_not_hurt_the_next_one(desk: Desk) -> None:
    desk.open("a").drop = None  # type: ignore[method-assign,assignment]  # calling it raises
    new = desk.open("x", generation=2)
    assert new.texts == ["x"] and not new.ends and desk.table.acked(0, 2, 1)


def error_words(slot: int, generation: int, text: str) -> IntArray:
    return np.frombuffer(feed.error(slot, generation, text), dtype=np.int32)[2:]
