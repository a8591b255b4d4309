"""Metrics of a server, read while a load test runs."""

from __future__ import annotations

import socket
import threading

import pytest

from loadtest.prometheus import fetch, parse, value_of
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
    assert series.ended_during_run == 4 and ServerSeries("u").ended_during_run is None
    for name in ("nv_inference_request_success", "vllm:request_success_total"):
        other = ServerSeries("u")
        for second in (0.0, 1.0):
            other.add(second, parse(f'{name}{{model="a"}} 5\n{name}{{model="b"}} 2\n'))
        assert other.ended_during_run == 0 and other.ended == [7.0, 7.0]


def test_a_port_that_speaks_no_http_is_an_os_error() -> None:
    """A gRPC port, for one. Anything else would end the run's greenlet, and the run would never end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(65536)  # closed with something unread, it would be reset
                connection.sendall(bytes(9))

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(OSError, match="no HTTP answer"):
            fetch(f"http://127.0.0.1:{server.getsockname()[1]}/metrics")
