"""Every way a stream may end: by itself, by its client, by a stop mark, by the engine, by the server."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from contract.ack_table import END, GONE, REFUSE
from contract.chunks import IntArray, Job
from contract.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest
from serving.streaming.disconnect_watch import GONE_BEATS
from serving.streaming.dispatcher import Dispatcher
from tests.serving.fakes import FakeSink
from tests.serving.rig import AT_ONCE, CANCEL, STREAM, Rig
from tests.waiting import until

# --- endings ---------------------------------------------------------------------------------------------------------


def test_a_vanished_client_is_noticed_by_its_missing_acks(rig: Rig) -> None:
    gone, staying = rig.open(follow=False), rig.open()
    before = rig.ack_table.beats[0]
    rig.runtime.step(1)
    until(lambda: len(rig.runtime.submitted) == 1)
    assert rig.ack_table.beats[0] - before > GONE_BEATS / 2  # the dispatcher's own clock may be some beats behind
    until(lambda: gone.dropped)
    assert len(rig.dispatcher.registry.sequences) == 1 and rig.dispatcher.registry.finished["disconnected"] == 1
    rig.runtime.step(2, finish="length")
    until(lambda: staying.ends)
    assert staying.ids == [1, 2] and gone.ends == 1


def test_a_client_that_a_probe_finds_gone_is_not_waited_for(rig: Rig) -> None:
    gone = rig.open(follow=False)
    until(lambda: gone.probes)
    (probe,), before = gone.probes, rig.ack_table.beats[0]
    rig.ack_table.probe(probe.slot, probe.generation, GONE)
    until(lambda: gone.dropped)
    assert rig.ack_table.beats[0] - before < GONE_BEATS / 2 and gone.ends == 1
    assert rig.dispatcher.registry.finished["disconnected"] == 1


def test_a_starved_detokenizer_is_no_vanished_client(rig: Rig) -> None:
    rig.detokenizer.beating = False
    sink = rig.open(follow=False)
    rig.runtime.step(1)
    until(lambda: sink.responses)
    time.sleep(2.2)
    assert rig.runtime.submitted and not sink.ends
    rig.detokenizer.beating = True
    rig.detokenizer.follow(sink)
    rig.runtime.step(2, finish="length")
    until(lambda: sink.ends)
    assert sink.ids == [1, 2]


def test_a_dispatcher_that_waits_in_tritons_send_blames_no_client(rig: Rig) -> None:
    """As it does while tritonserver is stopped, which passes on neither chunks nor probes."""
    sink = rig.open(follow=False)
    rig.runtime.step(1)
    until(lambda: sink.responses)
    held = rig.ack_table.beats[0]
    blocking = threading.Event()

    class Blocking(FakeSink):
        def send(self, words: IntArray, final: bool) -> None:
            blocking.set()
            until(lambda: rig.ack_table.beats[0] > held + 2 * GONE_BEATS)
            super().send(words, final)

    other = rig.detokenizer.follow(Blocking())
    rig.dispatcher.admit("", [1], AT_ONCE, other)
    rig.runtime.step(2, streams=[2], finish="length")
    assert blocking.wait(60)
    until(lambda: other.ends)
    rig.detokenizer.follow(sink)
    rig.runtime.step(3, finish="length")
    until(lambda: sink.ends)
    assert sink.ids == [1, 3]


def test_a_silent_detokenizer_ends_everybody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.streaming.disconnect_watch.DEAD_BEAT_SECONDS", 0.3)
    rig.detokenizer.beating = False
    sink = rig.open(follow=False)
    rig.runtime.step(1)
    until(lambda: sink.error)
    assert "the detokenizer has not answered" in str(sink.error) and rig.dispatcher.dead


def test_a_stop_mark_aborts_and_what_came_after_is_not_sent(rig: Rig) -> None:
    sink = rig.open(follow=False)
    rig.runtime.step(1)
    until(lambda: sink.responses)
    rig.runtime.step(2)
    chunk = sink.chunks[0]
    rig.ack_table.stop(chunk.slot, chunk.generation)
    rig.detokenizer.follow(sink)
    until(lambda: sink.ends)
    assert sink.ids == [1] and sink.finish == "cancelled"  # the detokenizer calls it "stop"
    until(rig.is_free)


@pytest.mark.parametrize("job", [STREAM, AT_ONCE])
def test_a_request_ends_when_its_own_time_has_passed(rig: Rig, job: Job) -> None:
    timed = replace(job, n=2, timeout_us=300_000, deadline=time.monotonic() + 0.3)
    sink, other = rig.open(timed), rig.open(job)
    rig.runtime.step(1)
    assert until(lambda: sink.error) > 0.1 and isinstance(sink.error, DeadlineExceeded) and sink.ends == 1
    assert str(sink.error) == "timeout: 300000 microseconds have passed after 2 tokens; allow more, or ask for fewer"
    assert len(rig.runtime.submitted) == 1 and rig.dispatcher.registry.finished["error"] == 2
    rig.runtime.step(2, finish="length")
    until(lambda: other.ends)
    assert other.ids == [1, 2]


def test_cancel_by_id_answers_both(rig: Rig) -> None:
    sink, other = rig.open(request_id="a"), rig.open(request_id="b")
    rig.runtime.step(1)
    answer = rig.open(CANCEL, "a")
    until(lambda: sink.ends)
    assert (sink.finish, answer.finish, answer.ends, other.ends) == ("cancelled", "cancelled", 1, 0)
    assert rig.open(CANCEL, "never seen").finish == "cancelled"
    with pytest.raises(InvalidRequest, match=r"^stop: true needs the Triton request id"):
        rig.open(CANCEL)


class Interrupted(dict):
    """Cancels a request at the worst moment: while its entry is taken out of the dictionary."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self.dispatcher = dispatcher

    def pop(self, key: str, *default: object) -> object:
        found = super().pop(key, *default)
        threading.Thread(target=self.dispatcher.admit, args=(key, [], CANCEL, FakeSink())).start()
        time.sleep(0.02)
        return found


def test_cancel_during_housekeeping_is_never_lost(rig: Rig) -> None:
    """The sender moves requests to the back of its queue while the other thread looks one up."""
    rig.dispatcher.registry.requests = Interrupted(rig.dispatcher)
    sink = rig.open(request_id="x")
    until(lambda: sink.ends)
    assert sink.finish == "cancelled"


def test_an_error_ends_its_request_alone(rig: Rig) -> None:
    sick, well = rig.open(), rig.open()
    rig.runtime.fail(min(rig.runtime.submitted), "out of pages")
    until(lambda: sick.error)
    assert str(sick.error) == "engine: out of pages" and sick.ends == 1
    rig.runtime.step(1, finish="length")
    until(lambda: well.ends)
    assert well.error is None
    until(rig.is_free)


def test_death_fails_everybody_and_refuses_newcomers(rig: Rig) -> None:
    sinks = [rig.open(job) for job in (STREAM, AT_ONCE, replace(STREAM, n=3))]
    rig.runtime.step(1)
    rig.dispatcher.on_death("a cable was pulled")
    until(lambda: all(sink.error and sink.ends for sink in sinks))
    assert {str(sink.error) for sink in sinks} == {"engine: a cable was pulled; the server restarts it, try again soon"}
    assert [sink.ends for sink in sinks] == [1, 1, 1]
    with pytest.raises(EngineUnavailable, match="a cable was pulled"):
        rig.open()
    assert len(rig.dispatcher.registry.sequences) == 0


def test_a_sink_that_breaks_hurts_nobody_else(rig: Rig) -> None:
    broken, failing, well = rig.open(), rig.open(), rig.open()
    broken.broken = failing.broken = True
    sick = sorted(rig.runtime.submitted)[1]
    rig.runtime.step(1)
    until(lambda: len(rig.runtime.submitted) == 1 or sick not in rig.runtime.submitted)
    rig.runtime.step(2, finish="length")
    until(lambda: well.ends)
    assert well.ids == [1, 2]
    until(rig.is_free)


def test_a_sink_that_cannot_take_an_error_hurts_nobody_else(rig: Rig) -> None:
    broken, well = rig.open(), rig.open()
    broken.broken = True
    rig.runtime.fail(min(rig.runtime.submitted), "bad")
    rig.runtime.step(1, finish="length")
    until(lambda: well.ends)
    until(rig.is_free)


def test_a_closing_launcher_first_refuses_then_ends(rig: Rig) -> None:
    open_one, ending = rig.open(), rig.open()
    rig.ack_table.closing = REFUSE
    with pytest.raises(EngineUnavailable, match=r"^engine: the server is stopping; try another one"):
        rig.open()
    rig.runtime.step(1, streams=[min(rig.runtime.submitted)], finish="length")
    until(lambda: open_one.ends)
    assert open_one.error is None and not ending.ends
    until(lambda: rig.ack_table.open_sequences == 1)
    rig.ack_table.closing = END
    until(lambda: ending.error)
    assert "the server is stopping" in str(ending.error)
    until(lambda: rig.is_free() and rig.ack_table.open_sequences == 0)


class BreaksAtTheEnd(FakeSink):
    """The response that would end the request cannot be sent; the bare final flag can."""

    def send(self, words: IntArray, final: bool) -> None:
        if final:
            raise RuntimeError("Failed to increase the shared memory pool size")
        super().send(words, final)


@pytest.mark.parametrize("job", [STREAM, AT_ONCE])
@pytest.mark.parametrize("beside", [0, 8])
def test_a_last_response_that_cannot_be_sent_still_ends_the_request(rig: Rig, job: Job, beside: int) -> None:
    sink = rig.detokenizer.follow(BreaksAtTheEnd())
    rig.dispatcher.admit("", [1, 2, 3], job, sink)
    others = [rig.open() for _ in range(beside)]
    rig.runtime.step(1, finish="length")  # one chunk: a stream's second would go past Triton
    until(lambda: bool(sink.ends))
    assert sink.dropped and sink.ends == 1
    until(lambda: all(other.ids == [1] for other in others))
    until(rig.is_free)
