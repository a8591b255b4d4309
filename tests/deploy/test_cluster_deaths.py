"""A replica, a router or a front dies or freezes under streams: what is lost, and what goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.deploy.running_cluster import LONG, STREAMS, Running, prompt, story

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def kill_triton(replica: psutil.Process) -> None:
    (triton,) = [each for each in replica.children(recursive=True) if each.name() == "tritonserver"]
    triton.kill()


def kill_launcher(replica: psutil.Process) -> None:
    replica.kill()


def kill_all(replica: psutil.Process) -> None:
    for each in [replica, *replica.children(recursive=True)]:
        each.kill()


def freeze_all(replica: psutil.Process) -> None:
    """As near as one host comes to a machine that is gone: connections stay open, and nothing comes."""
    for each in [replica, *replica.children(recursive=True)]:
        each.suspend()


@pytest.mark.parametrize("cluster", [3], indirect=True)
@pytest.mark.parametrize("strike", [kill_triton, kill_launcher, kill_all, freeze_all])
def test_answers_survive_a_replica(cluster: Running, strike: Callable[[psutil.Process], None]) -> None:
    """Each is what it is when nothing happens, over both transports."""
    kinds = [cluster.http_stream, cluster.grpc_stream]
    with ThreadPoolExecutor(STREAMS) as pool:
        calm = list(pool.map(lambda i: kinds[i % 2](i // 2), range(STREAMS)))
        again = [pool.submit(kinds[i % 2], i // 2) for i in range(STREAMS)]
        time.sleep(2.5)
        _, replica = cluster.replicas[0]
        family = [replica, *replica.children(recursive=True)]
        strike(replica)
        struck = time.monotonic()
        assert not any(answer.done() for answer in again)
        try:
            assert [answer.result() for answer in again] == calm
            assert time.monotonic() - struck < 30, "an answer waited for a time-out"
        finally:
            if strike is freeze_all:
                kill_all(replica)
    assert {count for _, count in calm} == {LONG} and calm[::2] == calm[1::2]
    if strike is not kill_triton:
        assert psutil.wait_procs(family, 20)[1] == [], "processes of the dead replica live on"


def test_a_dead_router_takes_only_its_own_streams_along(cluster: Running, tmp_path: Path) -> None:
    """Two smg and two Envoys over the same replicas; one smg is killed and comes back."""
    urls = ",".join(url for url, _ in cluster.replicas)
    ports = json.loads((tmp_path / "envoy.json").read_text())["static_resources"]["clusters"][0]["load_assignment"]
    grpc = [e["endpoint"]["address"]["socket_address"]["port_value"] for e in ports["endpoints"][0]["lb_endpoints"]]
    (tmp_path / "second").mkdir()
    second = Running(tmp_path / "second", urls, ",".join(map(str, grpc)))
    try:
        with ThreadPoolExecutor(STREAMS) as pool:
            kinds = [cluster.http_stream, cluster.grpc_stream, second.grpc_stream, second.http_stream]
            answers = [pool.submit(kinds[i % 4], i) for i in range(STREAMS)]
            time.sleep(2)
            second.smg.kill()
            failed = [i for i, answer in enumerate(answers) if answer.exception()]
        assert failed == [i for i in range(STREAMS) if i % 4 == 3], "those that the dead smg carried, and no other"
        second.wait_for("smg ended with -9; it is started again")
        deadline = time.monotonic() + 20
        while not second.over_http():
            assert time.monotonic() < deadline
    finally:
        second.stop()
    assert all(replica.is_running() for _, replica in cluster.replicas)


def test_a_dead_front_takes_only_its_own_answers_along(cluster: Running, tmp_path: Path) -> None:
    """Their clients hear of it at once. Everybody else notices nothing, and the front comes back."""
    front, log = cluster.front(0), tmp_path / "front0.log"
    with ThreadPoolExecutor(2 * STREAMS) as pool:
        in_one_piece = [pool.submit(cluster.http_answer, i) for i in range(STREAMS // 4)]
        over_http = [pool.submit(cluster.http_stream, i) for i in range(STREAMS // 2)]
        over_grpc = [pool.submit(cluster.grpc_stream, i) for i in range(STREAMS // 2)]
        time.sleep(2.5)
        for each in [*front.children(recursive=True), front]:
            each.kill()
        struck = time.monotonic()
        new = [pool.submit(cluster.over_http) for _ in range(8)]
        time.sleep(2.5)  # the others have a second to go
        lost = [i for i, answer in enumerate(over_http) if answer.done()]
        assert 0 < len(lost) < len(over_http) and all(over_http[i].exception() for i in lost), lost
        assert all(answer.result() for answer in new), "smg sends elsewhere what a dead front has not taken"
        whole = {i: answer.result() for i, answer in enumerate(over_http) if i not in lost}
        assert {i: over_grpc[i].result() for i in whole} == whole and all(answer.result() for answer in over_grpc)
        assert [answer.result() for answer in in_one_piece] == [answer.result() for answer in over_grpc[: STREAMS // 4]]
    others = (tmp_path / "front1.log").read_text()
    assert lost == [i for i in range(STREAMS // 2) if story(i) not in others]
    cluster.wait_for("front0 ended with -9; it is started again")
    served = '"path":"/v1/chat/completions"'
    before, asked = log.read_text().count(served), 0
    while log.read_text().count(served) == before:
        assert cluster.over_http(text=prompt(asked := asked + 1)) and time.monotonic() < struck + 60, "it serves again"
