"""The cluster itself is stopped, at any moment, or killed: it leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from contract.paths import ROOT
from serving.host.ports import free_ports
from tests.deploy.running_cluster import Running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_second_ctrl_c_stops_at_once(cluster: Running) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(kind, 1) for kind in (cluster.http_stream, cluster.grpc_stream)]
        time.sleep(1.5)
        family = psutil.Process(cluster.process.pid).children(recursive=True)
        cluster.process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert cluster.process.poll() is None and not any(answer.done() for answer in answers)
        cluster.process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert psutil.wait_procs(family, 15)[1] == [] and time.monotonic() - begin < 15
        assert all(answer.exception() for answer in answers), "they were cut off"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    """As a terminal and `timeout` send them: two at once."""
    command = [sys.executable, "-m", "deploy.cluster", "--replicas", "2", "--run", str(tmp_path)]
    ports = [
        text for flag, port in zip(("--port", "--grpc-port"), free_ports(2), strict=True) for text in (flag, str(port))
    ]
    process = subprocess.Popen(
        [*command, *ports, "--", "--runtime", "simulated"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout and process.stdout.readline().startswith("cluster: starting 2 of ")
    time.sleep(1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.send_signal(number)
    assert family and process.wait(60) == 0
    assert process.stdout.read() == "cluster: stopped while starting\n"
    assert psutil.wait_procs(family, 20)[1] == []


def test_nothing_survives_a_killed_cluster(tmp_path: Path) -> None:
    before = set(Path("/dev/shm").glob("envoy*"))
    running = Running(tmp_path, "2")
    names = [each.name() for each in psutil.Process(running.process.pid).children(recursive=True)]
    family = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    running.process.wait()
    assert {"smg", "env", "tri"} <= {name[:3] for name in names}
    assert psutil.wait_procs(family, 40)[1] == []
    assert set(Path("/dev/shm").glob("envoy*")) == before
