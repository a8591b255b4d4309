"""Streams between runtime and Triton: ack clock, answers, admission. Threads are real; time is bounded."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from contract.ack_table import AckTable
from contract.chunks import PLAIN, TextOptions
from contract.errors import DuplicateId, EngineUnavailable, InvalidRequest, Overloaded
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import EngineRequest
from serving.streaming.dispatcher import Dispatcher
from serving.streaming.flow_control import STALE_SECONDS, WINDOW
from tests.serving.fakes import FakeRuntime, FakeSink
from tests.serving.rig import AT_ONCE, CANCEL, QUEUE, STREAM, Rig
from tests.waiting import until

# --- the ack clock ---------------------------------------------------------------------------------------------------


def test_an_idle_stream_gets_its_tokens_one_by_one(rig: Rig) -> None:
    sink = rig.open()
    for number in range(5):
        rig.runtime.step(number)
        until(lambda number=number: len(sink.responses) == number + 1)
    rig.runtime.step(5, finish="length")
    until(lambda: sink.ends)
    assert sink.ids == [0, 1, 2, 3, 4, 5] and [chunk.seq for chunk in sink.chunks] == [1, 2, 3, 4, 5, 6]
    assert (sink.finish, sink.ends, sink.chunks[-1].completion_tokens) == ("length", 1, 6)
    until(rig.is_free)


def test_everything_made_while_a_chunk_is_under_way_goes_into_the_next(rig: Rig) -> None:
    sink = rig.open(follow=False)
    rig.runtime.step(0)
    until(lambda: sink.responses)
    for number in range(1, 8):
        rig.runtime.step(number)
    time.sleep(0.05)
    assert sink.ids == [0], "one chunk under way at a time"
    rig.acker.ack(sink.chunks[0])
    until(lambda: len(sink.responses) == 2)
    assert sink.chunks[1].ids == [1, 2, 3, 4, 5, 6, 7] and sink.chunks[1].completion_tokens == 8


def test_options_travel_in_the_first_chunk_only(rig: Rig) -> None:
    text = TextOptions(stops=("END",), echo="Hi")
    sink = rig.open(replace(STREAM, text=text))
    rig.runtime.step(1)
    until(lambda: len(sink.responses) == 1)
    rig.runtime.step(2, finish="stop")
    until(lambda: sink.ends)
    assert sink.chunks[0].options == text and sink.chunks[1].options is PLAIN


def test_log_probs_only_on_request(rig: Rig) -> None:
    plain = rig.open()
    asked = rig.open(replace(STREAM, text=TextOptions(log_probs=True)))
    rig.runtime.step(1, 2, finish="length")
    until(lambda: plain.ends and asked.ends)
    assert plain.chunks[0].log_probs == [] and asked.chunks[0].log_probs == [-0.5, -0.5]


def turn(dispatcher: Dispatcher) -> None:
    dispatcher._turn()
    until(lambda: dispatcher._senders.pending == 0)


def test_a_window_of_chunks_and_first_chunks_first(tmp_path: Path, token_bytes: TokenBytes) -> None:
    """By hand, without the sender's thread: ``WINDOW`` chunks leave; an ack lets one more go, a newcomer's first."""
    dispatcher = Dispatcher(AckTable.create(tmp_path / "ack_table", 2 * WINDOW + 8), token_bytes, 4 * WINDOW)
    runtime = FakeRuntime(dispatcher, 4 * WINDOW)
    dispatcher.attach(runtime)
    sinks = [FakeSink() for _ in range(WINDOW + 2)]
    for sink in sinks:
        dispatcher.admit("", [1], STREAM, sink)
    runtime.step(1)
    turn(dispatcher)
    assert [len(sink.responses) for sink in sinks] == [1] * WINDOW + [0, 0]
    runtime.step(2)  # the first WINDOW streams now wait for their second chunk
    newcomer = FakeSink()
    dispatcher.admit("", [1], STREAM, newcomer)
    runtime.step(3)
    for sink in sinks[:3]:
        chunk = sink.chunks[0]
        dispatcher._ack_table.ack(chunk.slot, chunk.generation, chunk.seq)
    turn(dispatcher)
    assert [len(sink.responses) for sink in sinks] == [1] * (WINDOW + 2) and len(newcomer.responses) == 1
    assert sinks[-1].ids == [1, 2, 3]
    time.sleep(STALE_SECONDS)  # chunks unacked for so long no longer hold up the others
    turn(dispatcher)
    assert [len(sink.responses) for sink in sinks[:3]] == [2, 2, 2]
    assert sinks[0].chunks[1].ids == [2, 3]


# --- one answer ------------------------------------------------------------------------------------------------------


def test_without_streaming_there_is_one_answer(rig: Rig) -> None:
    sink = rig.open(AT_ONCE)
    for number in range(4):
        rig.runtime.step(number)
    time.sleep(0.05)
    assert not sink.responses
    rig.runtime.step(4, finish="stop")
    until(lambda: sink.ends)
    assert len(sink.responses) == 1 and sink.ids == [0, 1, 2, 3, 4] and sink.finish == "stop"


def test_n_sequences_answer_together_in_order_with_their_own_seeds(rig: Rig) -> None:
    sink = rig.open(replace(AT_ONCE, n=3))
    assert [request.sampling.seed for request in rig.runtime.seen] == [7, 8, 9]
    last, first, middle = (rig.runtime.seen[index].sequence_id for index in (2, 0, 1))
    for number, stream in enumerate((last, first, middle)):
        assert not sink.responses
        rig.runtime.step(number, streams=[stream], finish="length")
    until(lambda: sink.ends)
    assert [(chunk.sequence_index, chunk.ids) for chunk in sink.chunks] == [(0, [1]), (1, [2]), (2, [0])]
    assert len(sink.responses) == 1
    until(rig.is_free)


def test_n_streams_end_with_one_final_flag(rig: Rig) -> None:
    sink = rig.open(replace(STREAM, n=3))
    rig.runtime.step(1)
    for request in list(rig.runtime.seen):
        rig.runtime.step(2, streams=[request.sequence_id], finish="length")
    until(lambda: sink.ends)
    for index in range(3):
        mine = [chunk for chunk in sink.chunks if chunk.sequence_index == index]
        assert [chunk.seq for chunk in mine] == list(range(1, len(mine) + 1))
        assert [token for chunk in mine for token in chunk.ids] == [1, 2] and mine[-1].finish
    assert sink.ends == 1


def test_a_stop_string_ends_an_unstreamed_answer_early(rig: Rig, token_bytes: TokenBytes) -> None:
    letters = {bytes([i + 33]): i for i in range(94)}  # Qwen2.5: ids 0… are the printable ASCII bytes
    sink = rig.open(replace(AT_ONCE, text=TextOptions(stops=("END",))))
    for letter in b"aENDb":
        rig.runtime.step(letters[bytes([letter])])
    until(lambda: sink.ends)
    assert rig.runtime.aborted and sink.finish == "cancelled"
    assert token_bytes.join(sink.ids).startswith(b"aEND")


# --- admission -------------------------------------------------------------------------------------------------------


def test_a_live_id_is_refused_and_free_again_afterwards(rig: Rig) -> None:
    sink = rig.open(request_id="same")
    with pytest.raises(DuplicateId, match=r"^request_id: 'same' is running; use a new id for every request"):
        rig.open(request_id="same")
    rig.runtime.step(1, finish="length")
    until(lambda: sink.ends)
    until(rig.is_free)
    again = rig.open(request_id="same")
    rig.runtime.step(2, finish="length")
    until(lambda: again.ends)
    assert (sink.ids, again.ids) == ([1], [2])


def test_requests_without_an_id_are_as_many_as_they_like(rig: Rig) -> None:
    sinks = [rig.open() for _ in range(20)]
    rig.runtime.step(1, finish="length")
    until(lambda: all(sink.ends for sink in sinks))


def test_a_full_queue_is_said_and_harms_nobody(rig: Rig) -> None:
    limit = rig.runtime.limits.max_streams + QUEUE
    sinks = [rig.open() for _ in range(limit - 1)]
    with pytest.raises(Overloaded, match=rf"^queue: full \({limit - 1} of {limit} sequences\); try again later"):
        rig.open(replace(STREAM, n=2))
    sinks.append(rig.open())
    with pytest.raises(Overloaded):
        rig.open()
    rig.runtime.step(1, finish="length")
    until(lambda: all(sink.ends for sink in sinks))
    until(rig.is_free)


def test_a_runtime_that_refuses_the_second_half_leaves_nothing_behind(rig: Rig) -> None:
    rig.runtime.refuse_after = 2
    with pytest.raises(InvalidRequest, match=r"^guided_decoding_guide: does not compile"):
        rig.open(replace(STREAM, n=4), request_id="half")
    until(rig.is_free)
    rig.runtime.refuse_after = 10**9
    sink = rig.open(request_id="half")
    rig.runtime.step(1, finish="length")
    until(lambda: sink.ends)
    assert sink.ids == [1]


def test_no_error_of_a_runtime_leaks_a_slot(rig: Rig) -> None:
    """Nor does one of its ``abort`` while the admission is undone: 200 attempts must not use up the 48 places."""

    def raises(*_: object) -> None:
        raise RuntimeError("out of pinned memory")

    rig.runtime.on_submit, rig.runtime.abort = raises, raises  # type: ignore[method-assign]
    for _ in range(200):
        with pytest.raises(RuntimeError, match="pinned memory"):
            rig.open(replace(STREAM, n=2), request_id="same")
    assert not rig.dispatcher.registry.sequences and not rig.dispatcher.registry.requests
    rig.runtime.submitted.clear()
    rig.runtime.on_submit = lambda request: None
    sinks = [rig.open() for _ in range(rig.runtime.limits.max_streams + QUEUE)]
    rig.runtime.step(1, finish="length")
    until(lambda: all(sink.ids == [1] for sink in sinks))


def test_a_half_refused_request_sends_nothing_later(rig: Rig) -> None:
    """Its first sequence has tokens waiting in the sender when the second one is refused."""
    sink = FakeSink()

    def answer(request: EngineRequest) -> None:
        rig.runtime.step(9, streams=[request.sequence_id])
        until(lambda: sink.responses)
        rig.runtime.step(8, streams=[request.sequence_id])
        until(lambda: rig.dispatcher._flow.waiting)

    rig.runtime.on_submit, rig.runtime.refuse_after = answer, 1
    with pytest.raises(InvalidRequest):
        rig.dispatcher.admit("", [1], replace(STREAM, n=2), sink)
    rig.acker.ack(sink.chunks[0])
    until(lambda: not rig.dispatcher._flow.waiting)
    assert sink.ids == [9] and not sink.dropped
    until(rig.is_free)


def test_a_client_that_left_during_admission_is_aborted(rig: Rig) -> None:
    """The sender may find it cancelled before the runtime has heard of it."""
    sink = FakeSink(is_cancelled=True)
    hold, submit = threading.Event(), rig.runtime.submit
    rig.runtime.submit = lambda request: (hold.wait(2), submit(request))[1]  # type: ignore[method-assign]
    thread = threading.Thread(target=rig.dispatcher.admit, args=("", [1], STREAM, sink))
    thread.start()
    until(lambda: rig.runtime.aborted)
    hold.set()
    thread.join()
    until(lambda: sink.dropped)
    until(rig.is_free)


def test_an_engine_that_dies_during_admission_answers_once(rig: Rig) -> None:
    def die(request: object) -> None:
        rig.dispatcher.on_death("gone")
        until(lambda: sink.error)
        raise EngineUnavailable("engine: gone")

    rig.runtime.on_submit = die
    sink = FakeSink()
    rig.dispatcher.admit("", [1], STREAM, sink)
    assert sink.ends == 1 and len(rig.dispatcher.registry.sequences) == 0


# --- all together ----------------------------------------------------------------------------------------------------


def test_slots_are_reused_and_generations_never_confused(rig: Rig) -> None:
    """Rounds of streams over few slots, ended in every way; each gets its own tokens, each slot comes back."""
    dice = random.Random(5)
    for round_number in range(30):
        sinks = [rig.open(dice.choice([STREAM, AT_ONCE]), f"{round_number}-{i}") for i in range(10)]
        owners = {request.sequence_id: i for i, request in enumerate(rig.runtime.seen[-10:])}
        for _ in range(3):
            for stream, i in owners.items():
                rig.runtime.step(1000 * round_number + i, streams=[stream])
        for i in dice.sample(range(10), 3):
            rig.open(CANCEL, f"{round_number}-{i}")
        rig.runtime.step(77, finish="length")
        until(lambda sinks=sinks: all(sink.ends for sink in sinks))
        for i, sink in enumerate(sinks):
            assert set(sink.ids) <= {1000 * round_number + i, 77} and sink.ends == 1
            assert sink.ids.count(77) == (sink.finish == "length")
    until(rig.is_free)
    assert sum(rig.dispatcher.registry.finished.values()) == 300


def test_a_stale_ack_is_ignored(rig: Rig) -> None:
    sink = rig.open(follow=False)
    rig.runtime.step(1)
    until(lambda: sink.responses)
    chunk = sink.chunks[0]
    rig.ack_table.ack(chunk.slot, chunk.generation - 1, chunk.seq)
    rig.ack_table.stop(chunk.slot, chunk.generation - 1)
    rig.runtime.step(2)
    time.sleep(0.05)
    assert len(sink.responses) == 1 and rig.runtime.submitted


def test_an_error_of_the_sender_itself_fails_everybody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = rig.open()
    monkeypatch.setattr(rig.dispatcher, "_turn", lambda: 1 / 0)
    until(lambda: sink.error)
    assert "dispatcher failed" in str(sink.error) and rig.dispatcher.dead
