"""The adapter against a stand-in made from the published surface (not the real thing: no GPU): delivery and endings."""

from __future__ import annotations

import time

import pytest

from contract.errors import EngineUnavailable
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, RuntimeOptions
from tests.serving.runtimes.tensorrt_llm.harness import TORCH_14
from tests.waiting import until


def test_length_counts_exactly_max_tokens(harness):
    harness.submit(1, [1, 2, 3], max_tokens=5)
    harness.wait(1)
    assert len(harness.tokens(1)) == 5 == sum(delta.counted for delta in harness.deltas(1))
    assert harness.deltas(1)[-1].finish_reason == "length"
    assert sum(bool(d.finish_reason) for d in harness.deltas(1)) == 1


def test_many_streams_are_delivered_in_shared_steps(harness):
    for sequence_id in range(40):
        harness.submit(sequence_id, [sequence_id, 1], max_tokens=12)
    until(lambda: len(harness.llm.executor.requests) == 40)
    harness.runtime._loop.call_soon_threadsafe(time.sleep, 0.2)  # results pile up meanwhile, as on a busy host
    harness.wait(*range(40))
    assert max(len(step) for step in harness.steps) >= 10
    assert harness.runtime.stats().steps == len(harness.steps)
    assert harness.runtime.stats().generated_tokens == 40 * 12


def test_abort_drains_to_a_cancelled_delta_and_frees_the_request(harness):
    harness.submit(1, [1], max_tokens=4000)
    until(lambda: len(harness.tokens(1)) > 2)
    harness.runtime.abort(1)
    harness.runtime.abort(1)
    harness.runtime.abort(99)
    harness.wait(1)
    assert harness.deltas(1)[-1].finish_reason == "cancelled"
    until(lambda: not harness.llm.executor.requests)


def test_abort_right_after_submit_is_not_lost(harness):
    harness.submit(1, [1], max_tokens=100000)
    harness.runtime.abort(1)
    harness.wait(1)
    assert harness.deltas(1)[-1].finish_reason == "cancelled"


def test_abort_that_is_never_answered_is_given_up(harness, monkeypatch):
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.DRAIN_S", 0.2)
    harness.control.hang_on_abort = True
    harness.submit(1, [1], max_tokens=4000)
    until(lambda: harness.tokens(1))
    harness.runtime.abort(1)
    harness.wait(1, seconds=3)
    assert [d.finish_reason for d in harness.deltas(1) if d.finish_reason] == ["cancelled"]


def test_request_error_ends_one_stream_and_no_other(harness):
    harness.control.errors[(6,)] = (3, "Token ID out of range")
    harness.submit(1, [6], max_tokens=20)
    harness.submit(2, [7], max_tokens=20)
    harness.wait(1, 2)
    assert harness.deltas(1)[-1].finish_reason == "error"
    assert "Token ID out of range" in harness.deltas(1)[-1].error
    assert len(harness.tokens(2)) == 20
    assert not harness.deaths


def test_queue_full_is_an_error_of_that_stream(start):
    harness = start("engine", options=RuntimeOptions(max_streams=1))
    harness.control.queue_limit = 0
    harness.submit(1, [1], max_tokens=2000)
    until(lambda: harness.tokens(1))
    harness.submit(2, [2])
    harness.wait(2)
    assert "Maximum queue size" in harness.deltas(2)[-1].error
    harness.runtime.abort(1)


def test_death_is_reported_once_and_later_submits_are_refused(harness):
    harness.control.die_at[(6,)] = 3
    harness.submit(1, [8], max_tokens=100000)
    harness.submit(2, [6], max_tokens=20)
    until(lambda: harness.deaths)
    assert len(harness.deaths) == 1 and "illegal memory access" in harness.deaths[0]
    count = len(harness.steps)
    with pytest.raises(EngineUnavailable):
        harness.submit(3, [1])
    time.sleep(0.1)
    assert len(harness.steps) == count and len(harness.deaths) == 1


def test_close_ends_open_streams_and_shuts_down_once(harness):
    harness.submit(1, [1], max_tokens=100000)
    until(lambda: harness.tokens(1))
    harness.runtime.close()
    harness.runtime.close()
    assert harness.deltas(1)[-1].finish_reason == "cancelled"
    assert harness.control.shutdowns == 1
    with pytest.raises(EngineUnavailable):
        harness.submit(2, [1])


def test_seeds_differ_and_repeat(harness):
    for sequence_id, seed in ((1, 5), (2, 5), (3, 6)):
        harness.submit(sequence_id, [1, 2], temperature=1.0, seed=seed)
    harness.wait(1, 2, 3)
    assert harness.tokens(1) == harness.tokens(2) != harness.tokens(3)


def test_priority_reaches_1_4_higher_first(start):
    harness = start(*TORCH_14)
    for sequence_id, value in enumerate((-3, 0, 4)):
        request = EngineRequest(sequence_id, [1], Sampling(max_tokens=1, temperature=0.0), priority=value)
        harness.runtime.submit(request)
    harness.wait(0, 1, 2)
    low, normal, high = (call["priority"] for call in harness.control.requests)
    assert 0 < low < normal == 0.5 < high < 1
