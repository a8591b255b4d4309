"""The gateway as the launcher's child: a real one, without Triton behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving.gateway.core.gateway import UNWATCHED_SECONDS
from serving.host.ports import free_ports
from serving.launch import child, gateway, health
from serving.launch.config import parse
from serving.launch.gateway import GatewayChild


class Launcher:
    """The part of it that looks after a gateway."""

    def __init__(self, directory: Path) -> None:
        (port,) = free_ports(1)
        self.gateway = GatewayChild(parse([f"--gateway-port={port}", "--drain=1"]), directory, directory / "log")
        self.gateway.start()
        self.until(lambda: len(self.workers) == 2 and self.answers())

    def answers(self) -> bool:
        return health.answers(f"{self.gateway.url}/health/live")

    @property
    def supervisor(self) -> int:
        assert self.gateway._process
        return self.gateway._process.pid

    @property
    def workers(self) -> list[int]:
        return [process.pid for process in psutil.Process(self.supervisor).children()]

    def until(self, check: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end
            time.sleep(0.05)
            self.gateway.beat()
            self.gateway.look()


def kill(process: subprocess.Popen[bytes]) -> None:
    child.stop(process, 0)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    monkeypatch.setenv("GATEWAY_WORKERS", "2")
    monkeypatch.setattr(gateway, "HANG_SECONDS", 2.0)
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.gateway.stop(kill, lambda: False)


def test_a_stopped_supervisor_is_replaced_and_a_stopped_worker_does_not_keep_the_port(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    old, workers = launcher.supervisor, launcher.workers
    os.kill(workers[0], signal.SIGSTOP)
    os.kill(old, signal.SIGSTOP)
    launcher.until(lambda: launcher.supervisor != old and launcher.answers())
    assert not child.is_alive(old)
    launcher.until(lambda: not any(map(child.is_alive, workers)))
    said = capsys.readouterr().out
    assert "the gateway's supervisor has not run for 2 s" in said
    assert said.count("restarting it") == 1, "the next one found the port free"


def test_a_gateway_that_hangs_ends_with_its_launcher(launcher: Launcher) -> None:
    """A worker that has not begun to beat too."""
    everybody = [launcher.supervisor, *launcher.workers]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    launcher.gateway.stop(kill, lambda: True)
    assert not any(map(child.is_alive, everybody))
    assert time.monotonic() - began < gateway.ORPHAN_SECONDS + 2


def test_the_gateway_says_when_nobody_watches(launcher: Launcher) -> None:
    launcher.gateway.readiness.write_text("")
    time.sleep(UNWATCHED_SECONDS + 1)  # without a beat
    answer = httpx.get(f"{launcher.gateway.url}/health/ready", timeout=5, trust_env=False)
    assert answer.status_code == 503 and answer.json()["status"].startswith("the launcher has not run for ")
    assert launcher.answers(), "an orchestrator need not act yet"
