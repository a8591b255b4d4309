"""Replicas behind the real smg and Envoy: a roll loses nothing, a killed replica takes only its own answers along."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from client import Client, Options
from contract.paths import ROOT
from loadtest.bench.process import free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
TOKENS = 64


class Running:
    def __init__(self, folder: Path) -> None:
        self.port, self.grpc = free_ports(2)
        self.log = folder / "cluster.log"
        command = [
            sys.executable, "-m", "deploy.cluster", "--replicas", "2", "--port", str(self.port), "--grpc-port",
            str(self.grpc), "--run", str(folder), "--", "--runtime", "simulated", "--step-ms", "15", "--drain", "20",
        ]  # fmt: skip
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        self.wait_for("Ctrl-C")

    def wait_for(self, words: str, count: int = 1) -> None:
        deadline = time.monotonic() + 120
        while self.log.read_text().count(words) < count:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def over_http(self, model: str = "qwen2.5-simulated") -> bool:
        """Whether a streamed answer came whole."""
        body = {
            "model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS, "stream": True,
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
def cluster(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0, running.log.read_text()


def test_a_roll_under_load_loses_no_answer(cluster: Running) -> None:
    answers: list[Future[bool]] = []
    done = threading.Event()

    def over_grpc() -> bool:
        with Client(f"127.0.0.1:{cluster.grpc}") as client:
            return bool(client.generate("Hi", Options(max_tokens=TOKENS)).text)

    def load(pool: ThreadPoolExecutor) -> None:
        while not done.wait(0.2):
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
    assert len(answers) > 50 and failed == []


def test_all_model_names_and_a_killed_replica(cluster: Running) -> None:
    assert cluster.over_http("qwen")
    pid = int(re.findall(r"pid (\d+)", cluster.log.read_text())[0])
    os.killpg(pid, signal.SIGKILL)  # a replica leads a process group of its own
    time.sleep(3)  # three health checks
    assert all(cluster.over_http() for _ in range(10))
    cluster.wait_for("it is started again")
