"""Streams between runtime and Triton: ack clock and answers. Threads are real; time is bounded."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from dataclasses import replace

import pytest

from contract.chunks import PLAIN, Job, TextOptions
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import EndToken, SequenceDelta
from tests.serving.fakes import FakeSink
from tests.serving.rig import AT_ONCE, CANCEL, STREAM, Rig
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
    rig.detokenizer.ack(sink.chunks[0], sink)
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


def test_what_a_guide_rules_out_has_a_number_that_json_has(rig: Rig) -> None:
    """An engine's -inf became null beside the alternatives of guided answers; OpenAI's word for it is -9999."""
    sink = rig.open(replace(STREAM, text=TextOptions(log_probs=True)))
    (number,) = rig.runtime.submitted
    tops = [((1, 0.0), (2, -math.inf)), ((1, math.nan), (2, -1.5))]
    rig.dispatcher.on_step([SequenceDelta(number, [1, 2], 2, "length", [0.0, math.nan], tops)])
    until(lambda: sink.ends)
    assert sink.chunks[0].log_probs == [0.0, -9999.0]
    assert json.loads(sink.chunks[0].top_logprobs) == [[[1, 0.0], [2, -9999.0]], [[1, -9999.0], [2, -1.5]]]


@pytest.mark.parametrize("stream", [True, False])
def test_the_end_token_only_on_request_and_scored_where_the_others_are(rig: Rig, stream: bool) -> None:
    job = replace(STREAM, stream=stream)
    plain = rig.open(job)
    asked = rig.open(replace(job, text=TextOptions(end_token=True)))
    scored = rig.open(replace(job, text=TextOptions(end_token=True, log_probs=True)))
    unscored = rig.open(replace(job, text=TextOptions(end_token=True, log_probs=True)))
    ends = [EndToken(9), EndToken(9), EndToken(9, -0.25, ((9, -0.25),)), EndToken(9)]
    deltas = [
        SequenceDelta(number, [1], 2, "stop", [-0.5], [((1, -0.5),)], end=end)
        for number, end in zip(rig.runtime.submitted, ends, strict=True)
    ]
    rig.dispatcher.on_step(deltas)
    sinks = (plain, asked, scored, unscored)
    until(lambda: all(sink.ends for sink in sinks))
    last = [sink.chunks[-1] for sink in sinks]
    assert [chunk.ids for chunk in last] == [[1], [1, 9], [1, 9], [1]]
    assert [chunk.ended for chunk in last] == [False, True, True, False]
    assert [chunk.log_probs for chunk in last] == [[], [], [-0.5, -0.25], [-0.5]]
    assert json.loads(last[2].top_logprobs) == [[[1, -0.5]], [[9, -0.25]]]
    assert {chunk.completion_tokens for chunk in last} == {2}


def test_a_newcomers_first_chunk_waits_for_nobody(rig: Rig) -> None:
    """However many others wait for an acknowledgement."""
    waiting = [rig.open(follow=False) for _ in range(12)]
    rig.runtime.step(1)
    until(lambda: all(sink.responses for sink in waiting))
    newcomer = rig.open()
    rig.runtime.step(2)
    until(lambda: newcomer.responses)
    assert all(sink.ids == [1] for sink in waiting)


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


# --- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [STREAM, AT_ONCE])
def test_every_open_request_is_probed_through_triton(rig: Rig, job: Job) -> None:
    """A client that left is noticed before the first token too, and where only one answer will come."""
    staying, gone = rig.open(job), rig.open(job, follow=False)
    until(lambda: len(staying.probes) > 1)
    assert [probe.completion_tokens for probe in staying.probes] == list(range(1, len(staying.probes) + 1))
    assert {probe.seq for probe in staying.probes} == {0} and not staying.responses
    until(lambda: gone.dropped)
    assert len(gone.probes) == 1 and gone.ends == 1
    rig.runtime.step(1, finish="length")
    until(lambda: staying.ends)
    until(rig.is_free)


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


class WaitsAtItsEnd(FakeSink):
    """Triton takes its time for the final flag."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def drop(self) -> None:
        assert self.go.wait(10)
        super().drop()


def test_text_of_others_does_not_wait_for_answers_that_end_in_the_same_step(rig: Rig) -> None:
    ending = rig.detokenizer.follow(WaitsAtItsEnd())
    rig.dispatcher.admit("", [1, 2, 3], STREAM, ending)
    going_on = rig.open()
    first, second = (request.sequence_id for request in rig.runtime.seen)
    rig.runtime.step(1)
    sequences = rig.dispatcher.registry.sequences
    until(lambda: all(s.is_open and s.is_acked(rig.ack_table) for s in sequences.values()))
    rig.dispatcher.on_step(
        [SequenceDelta(first, (2,), 1, "length", [-0.5]), SequenceDelta(second, (2,), 1, None, [-0.5])]
    )
    until(lambda: going_on.ids == [1, 2])
    assert ending.ids == [1]
    ending.go.set()
    until(lambda: ending.ends)
    assert ending.ids == [1, 2]
    rig.runtime.submitted.pop(first)
    rig.runtime.step(3, finish="length")
    until(rig.is_free)
