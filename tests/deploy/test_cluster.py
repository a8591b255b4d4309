"""Replicas behind the real smg and Envoy: a roll loses nothing, and every model name leads to one."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from client import Client, Options
from tests.deploy.running_cluster import TOKENS, Running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.mark.timeout(600)  # each of the three may take its two minutes, see ``wait_for``
@pytest.mark.parametrize("cluster", [3], indirect=True)
def test_a_roll_under_load_loses_no_answer(cluster: Running) -> None:
    """20 requests/s, half over HTTP, half over gRPC."""
    answers: list[Future[bool]] = []
    done = threading.Event()

    def over_grpc() -> bool:
        with Client(f"127.0.0.1:{cluster.grpc}") as client:
            return bool(client.generate("Hi", Options(max_tokens=TOKENS)).text)

    def load(pool: ThreadPoolExecutor) -> None:
        while not done.wait(0.1):
            answers.extend([pool.submit(cluster.over_http), pool.submit(over_grpc)])

    with ThreadPoolExecutor(64) as pool:
        sender = threading.Thread(target=load, args=(pool,))
        sender.start()
        time.sleep(1)
        cluster.process.send_signal(signal.SIGHUP)
        try:
            cluster.wait_for("all replicas replaced")
        finally:
            done.set()
            sender.join()
    failed = [str(a.exception() or "incomplete") for a in answers if a.exception() or not a.result()]
    print(f"{len(answers)} answers, {len(failed)} failed")
    assert len(answers) > 200 and failed == []


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_one_replica_is_not_rolled(cluster: Running) -> None:
    ((_, replica),) = cluster.replicas
    cluster.process.send_signal(signal.SIGHUP)
    cluster.wait_for("a roll needs two replicas or more")
    assert replica.is_running() and cluster.over_http()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.usefixtures("proxy")  # comes before ``cluster``
def test_a_proxy_in_the_environment_is_not_asked_for_replicas(cluster: Running) -> None:
    assert cluster.over_http() and cluster.grpc_stream(1)[1]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEYS", "alices-key,bobs-key")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_every_key_of_the_gateways_opens_every_model_name(cluster: Running) -> None:
    for model in ("qwen2.5-simulated", "qwen"):
        assert all(cluster.over_http(model, key=key) for key in ("alices-key", "bobs-key"))
        assert not cluster.over_http(model, key="eves-key") and not cluster.over_http(model)


def test_all_model_names_and_a_killed_replica(cluster: Running) -> None:
    assert cluster.over_http("qwen")
    pid = int(re.findall(r"pid (\d+)", cluster.log.read_text())[0])
    os.killpg(pid, signal.SIGKILL)  # a replica leads a process group of its own
    time.sleep(3)  # three health checks
    assert all(cluster.over_http() for _ in range(10))
    cluster.wait_for("it is started again")
