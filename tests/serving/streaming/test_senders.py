"""Several responses at once, last words last, and a sink that breaks concerns its own request only."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from contract.chunks import IntArray, Job, pack
from serving.streaming.senders import AHEAD, Senders
from serving.streaming.sequence import ActiveRequest, ActiveSequence
from tests.serving.fakes import FakeSink
from tests.serving.rig import AT_ONCE, STREAM, Rig
from tests.waiting import until

HELPERS = 2


class SlowSink(FakeSink):
    """A send that takes until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def send(self, words: IntArray, final: bool) -> None:
        assert self.go.wait(10)
        super().send(words, final)


def request(sink: FakeSink, sequences: int = 1) -> ActiveRequest:
    made = ActiveRequest("r", sink, STREAM, open=sequences)
    made.sequences = [ActiveSequence(i, made, i, i, 1, 3) for i in range(sequences)]
    return made


def chunk(seq: int) -> IntArray:
    return pack(0, 1, seq, 0, 3, seq, 0, 0, [seq])


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def senders(woken: threading.Event) -> Iterator[Senders]:
    box = Senders(woken.set, HELPERS)
    yield box
    box.close()


def test_helpers_take_what_is_due_beside_others_and_the_caller_the_rest(senders: Senders) -> None:
    slow = [SlowSink() for _ in range(AHEAD * HELPERS)]
    for sink in slow:
        senders.send(request(sink), chunk(1), False, more=True)
    assert senders.pending == len(slow)
    quick = FakeSink()
    senders.send(request(quick), chunk(1), False, more=True)
    assert quick.responses, "all helpers have enough to do: the caller's thread sent it"
    for sink in slow:
        sink.go.set()
    until(lambda: senders.pending == 0)
    assert all(sink.responses for sink in slow)


def test_a_lone_response_and_one_of_several_sequences_stay_in_the_callers_thread(senders: Senders) -> None:
    lone, several = FakeSink(), FakeSink()
    senders.send(request(lone), chunk(1), False, more=False)
    senders.send(request(several, sequences=2), chunk(1), False, more=True)
    assert lone.responses and several.responses and senders.pending == 0


def test_last_words_come_last(senders: Senders) -> None:
    sink = SlowSink()
    one = request(sink)
    senders.send(one, chunk(1), False, more=True)
    threading.Timer(0.05, sink.go.set).start()
    senders.end(one, sink.drop)
    assert [c.seq for c in sink.chunks] == [1] and sink.ends == 1


def test_a_broken_sink_is_told_of_and_ends_no_helper(senders: Senders, woken: threading.Event) -> None:
    broken = [request(FakeSink(broken=True)) for _ in range(2 * HELPERS)]
    for one in broken:
        senders.send(one, chunk(1), False, more=True)
    until(lambda: len(senders.failed) == len(broken))
    assert woken.is_set() and {id(one) for one, _ in senders.failed} == set(map(id, broken))
    sink = FakeSink()
    senders.send(request(sink), chunk(1), False, more=True)
    until(lambda: bool(sink.responses))


class LateSink(FakeSink):
    """Its first send has reached everybody, but the sending thread comes back from it late."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def send(self, words: IntArray, final: bool) -> None:
        first = not self.responses
        super().send(words, final)
        assert not first or self.go.wait(10)


def test_a_helper_that_returns_late_does_not_unmark_the_next_response(senders: Senders) -> None:
    sink = LateSink()
    one = request(sink)
    senders.send(one, chunk(1), False, more=True)
    until(lambda: bool(sink.responses))
    senders.send(one, chunk(2), False, more=True)  # chunk 1 is acknowledged before its helper is back
    sink.go.set()
    senders.end(one, sink.drop)
    until(lambda: senders.pending == 0)
    assert [c.seq for c in sink.chunks] == [1, 2] and sink.ends == 1 and not senders.failed


class BreaksAtTheEnd(FakeSink):
    """The response that would end the request cannot be sent; the bare final flag can."""

    def send(self, words: IntArray, final: bool) -> None:
        if final:
            raise RuntimeError("Failed to increase the shared memory pool size")
        super().send(words, final)


@pytest.mark.parametrize("job", [STREAM, AT_ONCE])
@pytest.mark.parametrize("beside", [0, 8])
def test_a_last_response_that_cannot_be_sent_still_ends_the_request(rig: Rig, job: Job, beside: int) -> None:
    sink = rig.acker.follow(BreaksAtTheEnd())
    rig.dispatcher.admit("", [1, 2, 3], job, sink)
    others = [rig.open() for _ in range(beside)]
    rig.runtime.step(1)
    rig.runtime.step(2, finish="length")
    until(lambda: bool(sink.ends))
    assert sink.dropped and sink.ends == 1
    until(lambda: all(other.ids == [1, 2] for other in others))
    until(rig.is_free)


def test_many_streams_through_the_dispatcher_are_whole_and_in_order(rig: Rig) -> None:
    sinks = [rig.open() for _ in range(16)]
    for number in range(200):
        rig.runtime.step(number)
        if number % 20 == 0:
            time.sleep(0.002)
    rig.runtime.step(200, finish="length")
    until(lambda: all(sink.ends for sink in sinks))
    for sink in sinks:
        assert sink.ids == list(range(201))
        assert [c.seq for c in sink.chunks] == list(range(1, len(sink.chunks) + 1))
    until(rig.is_free)
