"""Drain, workers that die, settings that are wrong: the gateway as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT, ask
from tests.serving.gateway.conftest import RunningGateway, Start
from tests.waiting import until


def test_drain_lets_streams_end_then_leaves_nothing(own_gateway: Start, fake: FakeTriton) -> None:
    """A terminal that closes says so twice, and drains as SIGTERM does, which the other tests send."""
    fake.step_ms = 20
    gateway = own_gateway(GATEWAY_DRAIN_SECONDS="1.5")
    texts: dict[str, str] = {}

    def stream(name: str, tokens: int) -> None:
        body = ask("x", max_tokens=tokens, stream=True)
        with httpx.stream("POST", gateway.url + CHAT, json=body, trust_env=False, timeout=20) as response:
            texts[name] = "".join(response.iter_text())

    threads = [threading.Thread(target=stream, args=a) for a in (("short", 30), ("long", 10_000))]
    for thread in threads:
        thread.start()
    until(lambda: len(fake.live) == 2)
    for _ in range(2):
        gateway.process.send_signal(signal.SIGHUP)
    until(lambda: httpx.get(f"{gateway.url}/health/ready", trust_env=False).status_code == 503)
    late = httpx.post(gateway.url + CHAT, json=ask("x"), trust_env=False)
    assert late.status_code == 503 and late.json()["error"]["code"] == "draining"
    for thread in threads:
        thread.join(10)
    assert "[DONE]" in texts["short"]
    assert '"status":503' in texts["long"] and "[DONE]" not in texts["long"]
    assert gateway.process.wait(10) == 0
    fake.wait_free()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if _is_worker_of(p, gateway.process.pid)]


def test_a_lame_duck_is_not_ready_and_answers(own_gateway: Start, fake: FakeTriton) -> None:
    """SIGTERM: first routers look away, then requests are refused. Ctrl-C refuses at once."""
    fake.step_ms = 20
    gateway = own_gateway(GATEWAY_LAME_DUCK_SECONDS="2", GATEWAY_DRAIN_SECONDS="8")
    body = ask("x", max_tokens=10_000, stream=True)
    with httpx.stream("POST", gateway.url + CHAT, json=body, trust_env=False, timeout=20) as open_stream:
        lines = open_stream.iter_lines()
        next(lines)
        signalled = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{gateway.url}/health/ready", trust_env=False).status_code == 503)
        admitted = httpx.post(gateway.url + CHAT, json=ask("x", max_tokens=2), trust_env=False)
        if time.monotonic() - signalled < 2:  # else this machine was too busy to ask in time
            assert admitted.status_code == 200, admitted.text
        until(lambda: httpx.post(gateway.url + CHAT, json=ask("x"), trust_env=False).status_code == 503)
        assert time.monotonic() - signalled > 2
        assert httpx.get(f"{gateway.url}/health/live", trust_env=False).status_code == 200
    assert gateway.process.wait(10) == 0


def test_ctrl_c_is_no_lame_duck(own_gateway: Start) -> None:
    gateway = own_gateway(GATEWAY_LAME_DUCK_SECONDS="60")
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.process.wait(10) == 0
    assert "Traceback" not in gateway.log.read_text()


def test_a_second_signal_ends_open_streams_at_once_with_an_event(own_gateway: Start, fake: FakeTriton) -> None:
    fake.step_ms = 20
    gateway = own_gateway(GATEWAY_DRAIN_SECONDS="60")
    with httpx.stream(
        "POST", gateway.url + CHAT, json=ask("x", max_tokens=10_000, stream=True), trust_env=False, timeout=20
    ) as response:
        lines = response.iter_lines()
        next(lines)
        gateway.process.send_signal(signal.SIGINT)
        until(lambda: httpx.get(f"{gateway.url}/health/ready", trust_env=False).status_code == 503)
        gateway.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        (*_, last) = (line for line in lines if line)
    assert '"status":503' in last and "the gateway is shutting down; the answer is incomplete" in last
    assert gateway.process.wait(20) == 0 and time.monotonic() - began < 20


def _is_worker_of(cmdline: Path, parent: int) -> bool:
    try:
        stat = (cmdline.parent / "stat").read_text().rsplit(")", 1)[1].split()
        return b"serving.gateway.worker" in cmdline.read_bytes() and int(stat[1]) == parent
    except OSError:
        return False


def _lives(pid: int) -> bool:
    """Running: a zombie that nobody collects has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _workers(parent: int) -> list[int]:
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if _is_worker_of(p, parent)]


def test_a_dead_worker_is_replaced_and_a_dead_supervisor_ends_all(own_gateway: Start, tmp_path: Path) -> None:
    """What a killed one leaves in the temporary directory goes when the next one starts."""
    gateway = own_gateway(TMPDIR=str(tmp_path))
    (left,) = tmp_path.glob("qwen-gateway-*")
    first = _workers(gateway.process.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    until(lambda: len(now := _workers(gateway.process.pid)) == 2 and first[0] not in now)
    workers = _workers(gateway.process.pid)
    gateway.process.kill()
    gateway.process.wait()
    until(lambda: not any(map(_lives, workers)))  # the new worker may still be importing on a busy machine
    own_gateway(TMPDIR=str(tmp_path))
    assert not left.exists() and len(list(tmp_path.glob("qwen-gateway-*"))) == 1


def test_clients_of_a_worker_that_is_alone_wait_for_the_next_one(own_gateway: Start) -> None:
    gateway = own_gateway(GATEWAY_WORKERS="1")
    for _ in range(2):
        (worker,) = _workers(gateway.process.pid)
        os.kill(worker, signal.SIGKILL)
        until(lambda pid=worker: not _lives(pid))
        asked = httpx.post(gateway.url + CHAT, json=ask("x", max_tokens=2), trust_env=False, timeout=60)
        assert asked.status_code == 200, asked.text
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{gateway.url}/health/live", trust_env=False)


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"GATEWAY_PORT": "many"}, "GATEWAY_PORT=many: give a whole number"), ({"GATEWAY_PORT": "70000"}, "0 to 65535"),
     ({"GATEWAY_API_KEYS_FILE": "/nonexistent"}, "cannot be read"), ({"GATEWAY_LOG_LEVEL": "LOUD"}, "DEBUG, INFO")],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(environment: dict[str, str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving.gateway"], env=os.environ | environment, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_taken_port_is_one_line(gateway: RunningGateway) -> None:
    port = gateway.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "serving.gateway"], env=os.environ | {"GATEWAY_PORT": port}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and f"127.0.0.1:{port} cannot be used" in done.stderr and done.stderr.count("\n") == 1


def test_bounds_on_the_engines_silence(own_gateway: Start, fake: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_FIRST_TOKEN_SECONDS="0.3", GATEWAY_STALL_SECONDS="0.3", GATEWAY_WORKERS="1")
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=20) as web:
        late = web.post(CHAT, json=ask("SLOW 30", stream=True))
        assert late.status_code == 504 and "no token came" in late.json()["error"]["message"]
        fake.wait_free()
        silent = web.post(CHAT, json=ask("STALL 30", stream=True)).text
        assert "fell silent" in silent and "[DONE]" not in silent
        fake.wait_free()
        assert web.post(CHAT, json=ask("SLOW 1")).status_code == 200, "a whole answer may take longer than a token"
