"""Metrics of a server, read while a load test runs."""

from __future__ import annotations

import pytest

from loadtest.prometheus import parse, value_of
from loadtest.scrape import ServerSeries


def test_prometheus_text() -> None:
    text = '# HELP x\nvllm:num_requests_running{model="q"} 3\nvllm:num_requests_running{model="r"} 4.5\n'
    samples = parse(text)
    assert value_of(samples, "vllm:num_requests_running") == 7.5
    assert value_of(samples, "vllm:num_requests_running{model=r}") == 4.5
    assert value_of(samples, "other") is None
    with pytest.raises(ValueError):
        parse("<html>not metrics</html>")
    series = ServerSeries("u")
    for second, freed in ((0.0, 5), (1.0, 9)):
        series.add(second, parse(f'{text}qwen_streams_finished_total{{reason="disconnected"}} {freed}\n'))
    assert series.points["running"] == [(0.0, 7.5), (1.0, 7.5)] and series.freed_during_run == 4
