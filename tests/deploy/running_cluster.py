"""A real `make cluster` of simulated replicas: smg, Envoy and a front for each replica, as its clients see them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from client import Client, Options
from contract.paths import ROOT
from serving.host.ports import free_ports

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
        answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/completions", json=body, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["text"], answer.json()["usage"]["completion_tokens"]

    def over_http(self, model: str = "qwen2.5-simulated", text: str = "Hi", key: str = "") -> bool:
        """Whether a streamed answer came whole."""
        body = {
            "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        url, headers = f"http://127.0.0.1:{self.port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
        try:
            answer = httpx.post(url, json=body, headers=headers if key else {}, timeout=60, trust_env=False)
        except httpx.HTTPError:
            return False
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        usage = [json.loads(event).get("usage") for event in events]
        return (
            answer.status_code == 200 and "[DONE]" in answer.text and any(u and u["completion_tokens"] for u in usage)
        )
