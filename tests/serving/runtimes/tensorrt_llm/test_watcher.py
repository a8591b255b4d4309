"""A dead or silent executor is noticed, whatever TensorRT-LLM itself says."""

from __future__ import annotations

import contextlib
import time

import pytest

from contract.errors import EngineUnavailable
from tests.serving.runtimes.tensorrt_llm.harness import TORCH_14
from tests.waiting import until


def test_a_silent_executor_is_found_out(harness, monkeypatch):
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.STALL_S", 0.3)
    harness.control.silent = True
    harness.control.stats_seconds = 3.0  # a dead executor does not answer questions either
    harness.submit(1, [1])
    until(lambda: harness.deaths, seconds=5)
    assert "no token" in harness.deaths[0]


@pytest.mark.parametrize("streams", [0, 3])
def test_a_killed_worker_is_noticed_although_sending_to_it_blocks(start, streams):
    """TensorRT-LLM says nothing, and the next request or abort blocks the loop in a ZMQ send."""
    harness = start("engine", worker=True)
    for sequence_id in range(streams):
        harness.submit(sequence_id, [sequence_id + 1], max_tokens=100000)
    until(lambda: all(harness.tokens(i) for i in range(streams)))
    harness.control.silent = True
    killed = time.monotonic()
    harness.llm.worker.process.kill()
    harness.llm.worker.process.wait()
    with contextlib.suppress(EngineUnavailable):  # it may have been noticed before
        harness.submit(99, [1])  # blocks the loop
    try:
        until(lambda: harness.deaths, seconds=5)
        assert time.monotonic() - killed < 5
        assert "worker process" in harness.deaths[0] and len(harness.deaths) == 1
        assert harness.runtime.stats().running == 0
        with pytest.raises(EngineUnavailable):
            harness.submit(100, [1])
        started = time.monotonic()
        harness.runtime.close()
        assert time.monotonic() - started < 20
    finally:
        harness.llm.worker.release()


def test_a_worker_that_ends_while_closing_is_no_death(start):
    harness = start("engine", worker=True)
    harness.runtime.close()
    harness.llm.worker.release()
    time.sleep(0.1)
    assert harness.deaths == []


def test_1_4_is_asked_for_its_health(start):
    harness = start(*TORCH_14)
    harness.control.healthy = False
    until(lambda: harness.deaths, seconds=5)
    assert "unhealthy" in harness.deaths[0]
