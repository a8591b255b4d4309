"""Replicas behind the real smg and Envoy: a roll loses nothing, a killed Triton neither."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from client import Client, Options
from contract.paths import ROOT
from serving.host.ports import free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
TOKENS = 64
LONG = 200  # tokens: six seconds, in which something is killed
STEP_MS = "30"
STREAMS = 24


def prompt(number: int) -> str:
    """Each begins in its own way: smg sends prompts that begin alike to one replica."""
    return f"{number} is the number of this story. Tell it."


def story(number: int) -> str:
    """Request id of an HTTP answer, by which the log of the front that gave it knows it."""
    return f"story-{number}-"


class Running:
    def __init__(self, folder: Path, replicas: str, grpc_ports: str = "") -> None:
        """``replicas``: how many, or URLs with their ``grpc_ports``."""
        self.port, self.grpc = free_ports(2)
        self.log = folder / "cluster.log"
        command = [
            sys.executable, "-m", "deploy.cluster", "--replicas", replicas, "--port", str(self.port),
            "--grpc-port", str(self.grpc), "--run", str(folder),
            *(["--replica-grpc-port", grpc_ports] if grpc_ports else []), "--",
            "--runtime", "simulated", "--step-ms", STEP_MS, "--drain", "20",
        ]  # fmt: skip
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        self.wait_for("Ctrl-C")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.log.read_text()

    def wait_for(self, words: str, count: int = 1) -> None:
        """For 120 s since the cluster's latest line: replicas of a busy machine start one after the other."""
        size, deadline = 0, 0.0
        while (log := self.log.read_text()).count(words) < count:
            if len(log) > size or not deadline:
                size, deadline = len(log), time.monotonic() + 120
            assert self.process.poll() is None and time.monotonic() < deadline, log
            time.sleep(0.1)

    @property
    def smg(self) -> psutil.Process:
        return next(each for each in psutil.Process(self.process.pid).children() if each.name().startswith("smg"))

    def front(self, number: int) -> psutil.Process:
        """The supervisor of the gateway in front of that replica; its log is its standard output."""
        children = psutil.Process(self.process.pid).children()
        return next(each for each in children if Path(f"/proc/{each.pid}/fd/1").resolve().stem == f"front{number}")

    @property
    def replicas(self) -> list[tuple[str, psutil.Process]]:
        """URL of the gateway and process of each, in the order of their numbers."""
        found = re.findall(r"replica (\d) ready .*? (http://[\d.:]+).*, pid (\d+)", self.log.read_text())
        return [(url, psutil.Process(int(pid))) for _, url, pid in sorted(found)]

    def grpc_stream(self, number: int) -> tuple[str, int]:
        """Text and count of tokens, through Envoy."""
        with Client(f"127.0.0.1:{self.grpc}") as client:
            answer = list(client.stream(prompt(number), Options(max_tokens=LONG, seed=number)))
        assert [chunk.chunk_index for chunk in answer] == list(range(len(answer)))
        return "".join(chunk.text for chunk in answer), answer[-1].completion_tokens

    def http_stream(self, number: int) -> tuple[str, int]:
        """The same through smg. Raises ``AssertionError`` or ``httpx.HTTPError`` for an answer that is not whole."""
        body = {
            "model": "qwen2.5-simulated", "prompt": prompt(number), "max_tokens": LONG, "seed": number,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        headers = {"x-request-id": story(number)}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/completions", json=body, headers=headers, timeout=60)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert answer.status_code == 200 and not any("error" in event for event in events), answer.text[-300:]
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        return text, events[-1]["usage"]["completion_tokens"]

    def http_answer(self, number: int) -> tuple[str, int]:
        """The same in one piece."""
        body = {"model": "qwen2.5-simulated", "prompt": prompt(number), "max_tokens": LONG, "seed": number}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["text"], answer.json()["usage"]["completion_tokens"]

    def over_http(self, model: str = "qwen2.5-simulated", text: str = "Hi") -> bool:
        """Whether a streamed answer came whole."""
        body = {
            "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        try:
            answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=60)
        except httpx.HTTPError:
            return False
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        usage = [json.loads(event).get("usage") for event in events]
        return (
            answer.status_code == 200 and "[DONE]" in answer.text and any(u and u["completion_tokens"] for u in usage)
        )


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(tmp_path, str(getattr(request, "param", 2)))
    yield running
    running.stop()


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


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_one_replica_is_not_rolled(cluster: Running) -> None:
    ((_, replica),) = cluster.replicas
    cluster.process.send_signal(signal.SIGHUP)
    cluster.wait_for("a roll needs two replicas or more")
    assert replica.is_running() and cluster.over_http()


def test_all_model_names_and_a_killed_replica(cluster: Running) -> None:
    assert cluster.over_http("qwen")
    pid = int(re.findall(r"pid (\d+)", cluster.log.read_text())[0])
    os.killpg(pid, signal.SIGKILL)  # a replica leads a process group of its own
    time.sleep(3)  # three health checks
    assert all(cluster.over_http() for _ in range(10))
    cluster.wait_for("it is started again")
