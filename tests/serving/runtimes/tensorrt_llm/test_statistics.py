"""Iteration records as gauges."""

from __future__ import annotations

from serving.runtimes.base import RuntimeOptions
from tests.waiting import until


def test_statistics_survive_a_time_out(start, monkeypatch, caplog):
    """``RPCTimeout`` derives from Exception alone; the poller must go on, and say so once."""
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.WATCH_S", 0.02)
    harness = start("pytorch")
    harness.control.stats_failures = 3
    harness.submit(1, [1], max_tokens=100000)
    until(lambda: harness.runtime.stats().kv_blocks_total, seconds=5)
    assert harness.control.stats_failures == 0
    assert sum("gave no statistics" in record.message for record in caplog.records) == 1
    harness.runtime.abort(1)
    harness.wait(1)


def test_statistics_name_running_waiting_and_blocks(start):
    harness = start("pytorch", options=RuntimeOptions(max_streams=2))
    for sequence_id in range(3):
        harness.submit(sequence_id, [sequence_id], max_tokens=100000)
    until(lambda: harness.runtime.stats().kv_blocks_total, seconds=5)
    stats = harness.runtime.stats()
    assert (stats.running, stats.waiting) == (2, 1)
    assert stats.kv_blocks_total == 1000 and stats.kv_blocks_used > 0
    for sequence_id in range(3):
        harness.runtime.abort(sequence_id)
    harness.wait(0, 1, 2)
    assert harness.runtime.stats().kv_blocks_used == 0
