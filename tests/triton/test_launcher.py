"""`python -m serving`: clear refusals, a bounded drain, and nothing left behind in any way of ending."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving.host.ports import free_ports
from serving.launch.triton import binary
from tests.conftest import ROOT, Server, start_server, stop_server
from tests.triton.calls import Stream, ask
from tests.triton.open_streams import OpenStreams
from tests.triton.processes import MODELS, alive, ended, family, is_ready, run_dir, shared_memory, triton
from tests.waiting import until

pytestmark = pytest.mark.triton
SIMULATED = ("--runtime", "simulated", "--step-ms", "5")
DRAIN = 3  # seconds, as the fixture asks for


def serve(*arguments: str) -> tuple[int, list[str]]:
    """Exit code and output lines of a launcher that must refuse."""
    ports = free_ports(3)
    flags = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    done = subprocess.run(
        [sys.executable, "-m", "serving", *flags, "--gateway-port=0", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()


def refused(*arguments: str) -> str:
    code, lines = serve(*arguments)
    assert code == 1 and len(lines) == 1, lines
    assert lines[0].startswith("serve: ")
    return lines[0].removeprefix("serve: ")


def test_a_taken_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused(*SIMULATED, f"--http-port={port}")
    assert line.startswith(f"port taken: HTTP_PORT={port}; stop what listens there or choose others: make serve ")


def test_a_missing_engine(tmp_path: Path) -> None:
    assert refused(f"--engine={tmp_path}").startswith(f"no engine at {tmp_path}")


def test_a_damaged_engine_json(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"schema_version": 1, "model"')
    line = refused(f"--engine={tmp_path}")
    assert "engine.json cannot be read" in line and line.endswith("rebuild it with `make engine`")


def test_an_engine_of_an_unknown_runtime(small_engine: Path, tmp_path: Path) -> None:
    """Only the engine step can tell; its sentence reaches the terminal."""
    shutil.copytree(small_engine, tmp_path / "engine")
    description = json.loads((tmp_path / "engine/engine.json").read_text())
    description["runtime"]["name"] = "abacus"
    (tmp_path / "engine/engine.json").write_text(json.dumps(description))
    code, lines = serve(f"--engine={tmp_path / 'engine'}")
    assert code == 1 and "runtime 'abacus' is not one of" in lines[-1]


def test_a_drain_ends_in_bounded_time_and_leaves_nothing(own_server: Callable[..., Server]) -> None:
    """A terminal that closes says so twice, from the shell and from the kernel, and drains as SIGTERM does below."""
    server = own_server(*SIMULATED)
    processes, directory = family(server), run_dir(server)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [segment.stat().st_mode & 0o777 for segment in shared_memory(server)] == [0o600] * len(MODELS)
    with Stream(server.grpc) as short, Stream(server.grpc) as endless:
        short.send(text_input="Hi", max_tokens=150, stream=True)  # under a second
        endless.send(text_input="Hi", max_tokens=30_000, stream=True)
        short.next()
        endless.next()
        start = time.monotonic()
        for _ in range(2):
            server.process.send_signal(signal.SIGHUP)
        finished = short.answer()
        assert finished.error is None and finished.finish == "length", f"an open stream may end: {finished.error}"
        newcomer = ask(server.grpc, text_input="Hi", max_tokens=2).error
        last = endless.answer().error
        for error in (newcomer, last):
            assert error is not None
            assert error.message().endswith("engine: the server is stopping; try another one, or again soon")
        assert time.monotonic() - start < DRAIN + 2
        assert server.process.wait(30) == 0
    assert time.monotonic() - start < DRAIN + 8
    assert ended(processes) and not directory.exists() and not shared_memory(server)
    assert "stopping: open streams get 3 s to end" in server.log.read_text()


def test_sigterm_makes_a_lame_duck_first(own_server: Callable[..., Server]) -> None:
    """Routers read at the gateway that the server is not ready, while both endpoints still answer what they send."""
    server = own_server(*SIMULATED, "--lame-duck", "3", "--drain", "1", gateway=True)
    with Stream(server.grpc) as endless:
        endless.send(text_input="Hi", max_tokens=30_000, stream=True)
        endless.next()
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        url = server.gateway
        server.wait_for(lambda: httpx.get(f"{url}/health/ready", verify=False).status_code == 503, 30)
        late = ask(server.grpc, text_input="Hi", max_tokens=2)
        over_http = httpx.post(
            f"{url}/v1/completions", json={"model": "qwen", "prompt": "Hi", "max_tokens": 2}, verify=False
        )
        if time.monotonic() - start < 3:  # else this machine was too busy to ask in time
            assert late.error is None and over_http.status_code == 200, (late.error, over_http.text)
        server.wait_for(lambda: ask(server.grpc, text_input="Hi", max_tokens=2).error is not None, 10)
        assert time.monotonic() - start > 3
        assert endless.answer().error is not None
        assert server.process.wait(30) == 0
    assert "stopping: routers get 3 s to look away, then open streams get 1 s to end" in server.log.read_text()


def test_a_second_ctrl_c_stops_at_once_and_streams_are_told(own_server: Callable[..., Server]) -> None:
    """Nor is the first one's server a lame duck: who waits for the prompt sends it nothing more."""
    server = own_server(*SIMULATED, "--drain", "60", "--lame-duck", "60", gateway=True)
    processes, directory = family(server), run_dir(server)
    with Stream(server.grpc) as endless, OpenStreams(server, 20) as web:
        endless.send(text_input="Hi", max_tokens=30_000, stream=True)
        endless.next()
        server.process.send_signal(signal.SIGINT)
        body = {"model": "qwen", "prompt": "Hi", "max_tokens": 2}
        until(lambda: httpx.post(f"{server.gateway}/v1/completions", json=body, verify=False).status_code == 503)
        assert server.process.poll() is None and "stopping: open streams get 60 s" in server.log.read_text()
        start = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert time.monotonic() - start < 6
        error = endless.answer().error
        assert error is not None and "engine: the server is stopping" in error.message()
        until(lambda: len(web.ended) == 20)
        assert {stream.error for stream in web.ended} == {"the gateway is shutting down; the answer is incomplete"}
    assert "look away" not in server.log.read_text()
    assert ended(processes) and not directory.exists() and not shared_memory(server)


def test_a_killed_launcher_leaves_no_process(own_server: Callable[..., Server]) -> None:
    server = own_server(*SIMULATED)
    processes = family(server)
    assert ask(server.grpc, text_input="Hi", max_tokens=2).completion_tokens == 2
    server.process.kill()
    server.process.wait()
    server.wait_for(lambda: not alive(processes), DRAIN + 10)
    assert not is_ready(server)


def launched(log: Path, *arguments: str, cwd: Path = ROOT, **env: str) -> Server:
    """A launcher that is not waited for."""
    ports = free_ports(3)
    flags = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    python = cwd / Path(sys.executable).relative_to(ROOT) if sys.executable.startswith(str(ROOT)) else sys.executable
    with log.open("w") as file:
        launcher = subprocess.Popen(
            [python, "-m", "serving", *flags, "--gateway-port=0", *arguments],
            cwd=cwd, stdout=file, stderr=file, env=os.environ | env,
        )  # fmt: skip
    return Server(launcher, *ports, 0, log)


def test_ctrl_c_while_the_first_token_is_awaited(small_engine: Path, tmp_path: Path) -> None:
    """The engine takes a minute for it; the terminal does not."""
    server = launched(tmp_path / "log", f"--engine={small_engine}", "--fault=stall@1:60")
    server.wait_for(lambda: is_ready(server), 120)
    time.sleep(0.5)
    processes = family(server)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0, "as later on"
    assert server.log.read_text().splitlines()[-1] == "stopped while starting"
    assert ended(processes) and not shared_memory(server)


def test_a_checkout_and_an_engine_under_any_path(small_engine: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'd\'un "été" & $x'
    for name in ("contract", "client", "serving", "model_repository", "build_engine"):
        shutil.copytree(ROOT / name, odd / name)
    (odd / "versions.toml").symlink_to(ROOT / "versions.toml")
    if (ROOT / ".venv").exists():
        (odd / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(small_engine, odd / "my engine")
    places = {name: str(odd) for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR")}
    server = launched(tmp_path / "log", f"--engine={odd / 'my engine'}", cwd=odd, LC_ALL="C", **places)
    try:
        server.wait_for(lambda: "Ctrl-C" in server.log.read_text() or server.process.poll() is not None, 120)
        assert server.process.poll() is None, server.log.read_text()
        assert ask(server.grpc, text_input="Hi", max_tokens=2).completion_tokens == 2
        processes = family(server)
    finally:
        server.process.terminate()
        server.process.wait(30)
    assert ended(processes) and not list(odd.glob("qwen-serve-*"))


def test_a_model_process_that_ends_while_it_loads_is_noticed_at_once(small_engine: Path, tmp_path: Path) -> None:
    triton, backends = binary()
    if backends is None:
        pytest.skip("Triton's own backends are used here")
    shutil.copytree(backends / "python", tmp_path / "python")
    stub = tmp_path / "python/triton_python_backend_stub"
    stub.write_text("#!/bin/sh\nexit 3\n")
    began = time.monotonic()
    dying = launched(tmp_path / "log", f"--engine={small_engine}", TRITON=str(triton), TRITON_BACKENDS=str(tmp_path))
    assert dying.process.wait(60) == 1
    assert dying.log.read_text().splitlines()[-1].startswith("serve: Triton did not start: a model process ended (log:")
    assert time.monotonic() - began < 25  # Triton's own time-out is 30 s a model


def _successor(server: Server, before: psutil.Process) -> psutil.Process | None:
    try:
        found = triton(server)
    except (StopIteration, psutil.NoSuchProcess):
        return None
    return found if found.pid != before.pid else None


def test_a_triton_that_is_stopped_while_it_starts_is_replaced(own_server: Callable[..., Server]) -> None:
    """Nothing answers yet, so there is no heartbeat to miss; and a start may take minutes."""
    server = own_server(*SIMULATED)
    first = triton(server)
    first.kill()
    until(lambda: _successor(server, first))
    second = _successor(server, first)
    assert second is not None
    second.suspend()
    until(lambda: _successor(server, second))
    until(lambda: is_ready(server))
    assert "has been stopped for 6 s" in server.log.read_text()


def test_256_open_files_are_few_and_end_nothing(small_engine: Path, tmp_path: Path) -> None:
    server = start_server(
        tmp_path / "log", "--engine", str(small_engine), "--step-ms", "5", gateway=True,
        under=["prlimit", "--nofile=256:256"],
    )  # fmt: skip
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20, "ignore_eos": True}

    def status(_: int) -> int:
        url = f"{server.gateway}/v1/chat/completions"
        try:
            return httpx.post(url, json=body, timeout=60, trust_env=False, verify=False).status_code
        except httpx.TransportError:
            return 0

    try:
        assert server.log.read_text().startswith("warning: ulimit -Hn is 256: ")
        with ThreadPoolExecutor(400) as pool:
            answers = list(pool.map(status, range(400)))
        assert {200} <= set(answers) <= {0, 200, 429, 503}
        assert status(0) == 200 and "died" not in server.log.read_text()
    finally:
        assert stop_server(server) == 0


def test_a_small_soft_limit_of_open_files_is_raised(server: Server) -> None:
    """The fixture starts it under one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert f"Max open files            {hard}" in Path(f"/proc/{server.process.pid}/limits").read_text()
