"""Admission, through the dispatcher: ids, a full queue, what a half-done admission leaves. Threads are real."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from contract.errors import DuplicateId, EngineUnavailable, InvalidRequest, Overloaded
from serving.runtimes.base import EngineRequest
from tests.serving.fakes import FakeSink
from tests.serving.rig import CANCEL, QUEUE, STREAM, Rig
from tests.waiting import until


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


def test_a_runtime_knows_the_sequences_of_one_request_apart(rig: Rig) -> None:
    sinks = [rig.open(replace(STREAM, n=3)), rig.open()]
    assert [request.index for request in rig.runtime.seen] == [0, 1, 2, 0]
    rig.runtime.step(1, finish="length")
    until(lambda: all(sink.ends for sink in sinks))


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

    rig.runtime.on_submit, rig.runtime.abort = raises, raises
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
    rig.detokenizer.ack(sink.chunks[0], sink)
    until(lambda: not rig.dispatcher._flow.waiting)
    assert sink.ids == [9] and not sink.dropped
    until(rig.is_free)


def test_a_client_that_left_during_admission_is_aborted(rig: Rig) -> None:
    """It may be cancelled before the runtime has heard of it."""
    sink = FakeSink()
    hold, submit = threading.Event(), rig.runtime.submit
    rig.runtime.submit = lambda request: (hold.wait(2), submit(request))[1]
    thread = threading.Thread(target=rig.dispatcher.admit, args=("x", [1], STREAM, sink))
    thread.start()
    until(lambda: rig.dispatcher.registry.find("x"))
    rig.open(CANCEL, "x")
    until(lambda: rig.runtime.aborted)
    hold.set()
    thread.join()
    until(lambda: sink.finish == "cancelled")
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
