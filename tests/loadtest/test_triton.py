"""The load generator against the real thing: Triton, the ensemble and the gateway over a simulated engine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.loadtest.mock import loadtest
from tests.loadtest.test_runs import RAN, conserved

pytestmark = pytest.mark.triton


def ports(server: Server) -> list[str]:
    found = {
        "--grpc-port": server.grpc_port,
        "--gateway-port": server.gateway_port,
        "--metrics-port": server.metrics_port,
    }
    return [str(part) for pair in found.items() for part in pair]


def test_both_ways_in_count_the_servers_tokens(server: Server, tmp_path: Path) -> None:
    options = (
        "--rate",
        "8",
        "--duration",
        "4s",
        "--warmup",
        "1s",
        "--scenario",
        "mixed",
        "--output-tokens",
        "uniform(5,40)",
    )
    before, ended = server.metric("vllm:generation_tokens_total"), server.metric("qwen_streams_finished_total")
    run = loadtest(tmp_path, *ports(server), *options, "--transport", "both")
    assert run.code in RAN, run.output
    summary = run.summary
    assert conserved(summary["total"]["counts"]) and summary["total"]["counts"]["failed"] == 0, run.output
    assert summary["total"]["counts"]["length_mismatches"] == 0
    assert set(summary["lanes"]) == {"grpc", "sse"} and {"ttft", "tpot"} == set(summary["gateway_cost"])
    assert all(r["prompt_tokens"] > 0 and r["finish_reason"] == "length" for r in run.requests)
    received = sum(r["completion_tokens"] for r in run.requests)

    def of_others() -> float:
        """While the load generator started the server was idle, and an idle one generates a token every ten seconds."""
        return server.metric("qwen_streams_finished_total") - ended - len(run.requests)

    end = time.monotonic() + 3  # the server's counters lag by up to a report interval
    while (made := server.metric("vllm:generation_tokens_total") - before) != received + of_others():
        assert time.monotonic() < end, f"every token once, warm-up included: {received} of {made}, {of_others()} others"
        time.sleep(0.05)
    assert {"running", "waiting", "kv"} <= set(summary["server"]["peak"])


def test_streams_of_users_who_left_are_freed(server: Server, tmp_path: Path) -> None:
    options = ("--users", "6", "--duration", "5s", "--warmup", "0s", "--output-tokens", "800", "--scenario", "cancel")
    run = loadtest(tmp_path, *ports(server), *options, "--transport", "both")
    assert run.code in RAN, run.output
    found = run.summary["server"]
    # who leaves just before the end leaves a stream that ends by itself
    assert found["we_left"] >= found["streams_freed"] > 0.5 * found["we_left"]
    server.wait_for(lambda: server.metric("qwen_slots_used") == 0, 10)


def test_a_whole_answer_arrives_at_once(server: Server, tmp_path: Path) -> None:
    options = ("--users", "2", "--duration", "3s", "--warmup", "0s", "--output-tokens", "20", "--scenario", "code")
    run = loadtest(tmp_path, *ports(server), *options, "--stream", "no")
    assert run.code in RAN, run.output
    assert {(r["messages"], r["completion_tokens"]) for r in run.requests if r["outcome"] == "completed"} == {(1, 20)}
