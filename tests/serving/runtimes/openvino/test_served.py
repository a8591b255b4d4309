"""The real thing: Triton, the three steps and the CPU engine, and what happens when the engine is killed."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from tests.conftest import Server
from tests.triton.processes import command

pytestmark = pytest.mark.triton
STREAMS = 6


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openvino_build.build(BuildSpec("synthetic", "int8", "openvino", tmp_path_factory.mktemp("engine") / "e"))


def post(server: Server, path: str, **body: object) -> urllib.request.Request:
    return urllib.request.Request(f"{server.http}/v2/models/qwen/{path}", json.dumps(body).encode(), method="POST")


def generate(server: Server, **body: object) -> dict[str, object]:
    with urllib.request.urlopen(post(server, "generate", **body), timeout=60) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def worker_of(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if "serving.runtimes.openvino.worker" in command(child))


def test_kill_9_of_the_engine_under_load(own_server: Callable[..., Server], directory: Path) -> None:
    """Every open stream ends within 5 s, and the launcher brings the service back."""
    server = own_server("--engine", str(directory))
    ask = {"text_input": "Hello", "max_tokens": 8, "temperature": 0.0}
    before = generate(server, **ask)
    assert (before["completion_tokens"], before["finish_reason"], before["prompt_tokens"]) == (8, "length", 1)
    worker = worker_of(server)
    streams = [threading.Thread(target=stream, args=(server,)) for _ in range(STREAMS)]
    for each in streams:
        each.start()
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == STREAMS, 30)
    worker.kill()
    killed = time.monotonic()
    for each in streams:
        each.join(max(0.0, killed + 15 - time.monotonic()))
    assert not any(each.is_alive() for each in streams), "a stream outlived its engine by 15 s"
    server.wait_for(lambda: serves(server, ask, before), 60)
    assert worker_of(server).pid != worker.pid


def stream(server: Server) -> None:
    """Read a long stream until it ends, in whatever way."""
    try:
        request = post(server, "generate_stream", text_input="Tell me", max_tokens=20_000, stream=True)
        with urllib.request.urlopen(request, timeout=60) as response:
            for _ in response:
                pass
    except (OSError, urllib.error.URLError):
        return


def serves(server: Server, ask: dict[str, object], expected: dict[str, object]) -> bool:
    try:
        return generate(server, **ask)["output_ids"] == expected["output_ids"]
    except (OSError, urllib.error.URLError):
        return False
