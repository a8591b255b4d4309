"""The gateway as the launcher's child: a real one, without Triton behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from serving import session_dir
from serving.gateway import listening
from serving.gateway.core.health import UNWATCHED_SECONDS
from serving.host.ports import free_ports
from serving.launch import child, gateway, health
from serving.launch.config import LaunchError, parse
from serving.launch.gateway import GatewayChild
from tests.waiting import until


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("GATEWAY_WORKERS", "abc", "GATEWAY_WORKERS=abc: give a whole number"),
        ("GATEWAY_STALL_SECONDS", "soon", "GATEWAY_STALL_SECONDS=soon: give a number"),
        ("GATEWAY_STALL_SECONDS", "nan", "GATEWAY_STALL_SECONDS=nan: give a number that is not negative"),
        ("GATEWAY_MAX_PROMPTS", "-1", "GATEWAY_MAX_PROMPTS=-1: give a number that is not negative"),
        ("GATEWAY_LOG_LEVEL", "loud", "GATEWAY_LOG_LEVEL=loud: give DEBUG"),
        ("GATEWAY_API_KEYS_FILE", "/nowhere", "GATEWAY_API_KEYS_FILE=/nowhere: cannot be read"),
    ],
)
def test_a_variable_of_the_gateways_is_checked_before_triton_starts(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    gateway.check(parse([]))
    monkeypatch.setenv(variable, value)
    with pytest.raises(LaunchError) as error:
        gateway.check(parse([]))
    assert str(error.value).startswith(says)
    gateway.check(parse(["--gateway-port=0"]))


class Launcher:
    """The part of it that looks after a gateway."""

    def __init__(self, directory: Path) -> None:
        (self.port,) = (port,) = free_ports(1)
        self.home, self._lock = session_dir.create(directory, "run-")
        self.gateway = GatewayChild(parse([f"--gateway-port={port}", "--drain=1"]), self.home, directory / "log")
        self.gateway.start()
        self.until(lambda: len(self.workers) == 2 and self.answers())

    def die(self) -> None:
        """Only its hold on its directory goes, which is how others see that it is gone."""
        self._lock.close()

    def answers(self) -> bool:
        return health.answers(f"{self.gateway.url}/health/live")

    @property
    def supervisor(self) -> int:
        assert self.gateway.process
        return self.gateway.process.pid

    @property
    def workers(self) -> list[int]:
        """Those that run their own program already: a child that was only forked still looks like the supervisor."""
        children = psutil.Process(self.supervisor).children()
        return [process.pid for process in children if "GATEWAY_RUN_DIR" in process.environ()]

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
    launcher.gateway.stop(signal.SIGTERM, kill)


def test_a_stopped_supervisor_is_replaced_and_a_stopped_worker_does_not_keep_the_port(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    old, workers = launcher.supervisor, launcher.workers
    os.kill(workers[0], signal.SIGSTOP)
    os.kill(old, signal.SIGSTOP)
    launcher.until(lambda: launcher.supervisor != old and launcher.answers())
    launcher.until(lambda: not any(map(child.is_alive, [old, *workers])))
    said = capsys.readouterr().out
    assert "the gateway's supervisor has not run for 2 s" in said
    assert said.count("restarting it") == 1, "the next one could share the port"


def test_no_connection_is_refused_while_a_killed_supervisor_is_replaced(launcher: Launcher) -> None:
    """Its workers serve until others listen; one that keeps a connection open is answered too, and told to close it."""
    old, workers, asked = launcher.supervisor, launcher.workers, 0
    with ExitStack() as kept:
        clients = [kept.enter_context(httpx.Client(base_url=launcher.gateway.url, trust_env=False)) for _ in range(8)]
        assert all(client.get("/health/live").status_code == 200 for client in clients)
        os.kill(old, signal.SIGKILL)

        def are_replaced() -> bool:
            nonlocal asked
            asked += 1
            assert launcher.answers(), "every new connection is answered"
            return not any(map(child.is_alive, workers))

        launcher.until(lambda: launcher.supervisor != old)
        assert all(map(child.is_alive, workers)), "they serve while the next supervisor starts"
        assert {client.get("/health/live").status_code for client in clients} == {200}
        launcher.until(are_replaced)
    assert asked > 10 and len(launcher.workers) == 2


def test_workers_without_supervisor_and_launcher_leave_the_port(launcher: Launcher) -> None:
    """Nobody would relieve them."""
    workers = launcher.workers
    launcher.die()
    os.kill(launcher.supervisor, signal.SIGKILL)
    until(lambda: not any(map(child.is_alive, workers)), 20, (launcher.home.parent / "log").read_text)


def test_the_launcher_holds_the_port(launcher: Launcher, tmp_path: Path) -> None:
    """Nobody takes it while no gateway runs."""
    everybody = [launcher.supervisor, *launcher.workers]
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(child.is_alive, everybody)))
    with pytest.raises(OSError, match="in use"):
        listening.hold("127.0.0.1", launcher.port)
    other = tmp_path / "other"
    other.mkdir()
    second = GatewayChild(parse([f"--gateway-port={launcher.port}"]), other, other / "log")
    with pytest.raises(LaunchError, match=f"GATEWAY_PORT={launcher.port} on 127.0.0.1 cannot be used"):
        second.start()


def test_a_gateway_that_hangs_ends_with_its_launcher(launcher: Launcher) -> None:
    """A worker that has not begun to beat too."""
    everybody = [launcher.supervisor, *launcher.workers]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    launcher.gateway.stop(signal.SIGTERM, kill)
    assert time.monotonic() - began < gateway.LAST_EVENT_SECONDS + 2
    until(lambda: not any(map(child.is_alive, everybody)))  # those that it does not wait for take a moment to die


def test_the_gateway_says_when_nobody_watches(launcher: Launcher) -> None:
    launcher.gateway.readiness.write_text("")
    time.sleep(UNWATCHED_SECONDS + 1)  # without a beat
    answer = httpx.get(f"{launcher.gateway.url}/health/ready", timeout=5, trust_env=False)
    assert answer.status_code == 503 and answer.json()["status"].startswith("the launcher has not run for ")
    assert launcher.answers(), "an orchestrator need not act yet"
