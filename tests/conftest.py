"""Fixtures that start real servers. Each server has its own ports, so tests can run beside a `make serve`."""

from __future__ import annotations

import tests.grpc_without_forks  # noqa: F401

# isort: split
import contextlib
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_engine.synthetic import simulated
from contract.ack_table import AckTable
from contract.paths import ROOT
from loadtest import prometheus
from serving.host.ports import free_ports
from serving.launch.config import SIMULATED_ENGINE
from tests import small_engine as small

START_SECONDS = 180
# nohup and a script's background start programs with these ignored, and what tests start would ignore them too.
for number, default in {
    signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL,
}.items():  # fmt: skip
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, default)


@dataclass
class Server:
    """A running `python -m serving`."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    metrics_port: int
    gateway_port: int
    log: Path

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def ports(self) -> tuple[int, int, int, int]:
        return self.http_port, self.grpc_port, self.metrics_port, self.gateway_port

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def metric(self, name: str) -> float:
        """The value of one sample of the engine's metrics, e.g. ``qwen_slots_used``."""
        value = prometheus.value_of(prometheus.fetch(self.metrics), name)
        if value is None:
            raise KeyError(name)
        return value

    def wait_for(self, check: Callable[[], bool], seconds: float) -> float:
        """Seconds until ``check()``; fails after ``seconds``."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            with contextlib.suppress(KeyError):  # a server that has just started has no such metric yet
                if check():
                    return time.monotonic() - start
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s; log: {self.log}")


def start_server(
    log: Path, *arguments: str, gateway: bool = False, ports: Sequence[int] = (), under: Sequence[str] = ()
) -> Server:
    """Start a server and wait until it announces itself. ``under``: the beginning of its command line, e.g. strace."""
    http, grpc, metrics, page = ports or free_ports(4)
    command = [
        *under, sys.executable, "-m", "serving", "--http-port", str(http), "--grpc-port", str(grpc),
        "--metrics-port", str(metrics), "--gateway-port", str(page if gateway else 0), "--drain", "3", *arguments,
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True)
    server = Server(process, http, grpc, metrics, page, log)
    deadline = time.monotonic() + START_SECONDS
    while "Ctrl-C" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the server did not start:\n{log.read_text()}")
        time.sleep(0.1)
    return server


def stop_server(server: Server) -> int:
    server.process.terminate()
    return server.process.wait(timeout=30)


@pytest.fixture(scope="session")
def simulated_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine directory of `make serve RUNTIME=simulated`, which the first of several test processes makes."""
    with (tmp_path_factory.getbasetemp().parent / "simulated_engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not SIMULATED_ENGINE.exists():
            simulated.write(SIMULATED_ENGINE)
    return SIMULATED_ENGINE


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, simulated_engine: Path) -> Iterator[Server]:
    """A simulated engine behind the real Triton, with the gateway: one for the whole run."""
    log = tmp_path_factory.mktemp("server") / "serve.log"
    few_files = ("prlimit", "--nofile=256:", "--")  # a shell's soft limit, which the launcher raises
    running = start_server(log, "--runtime", "simulated", "--step-ms", "5", gateway=True, under=few_files)
    yield running
    stop_server(running)


@pytest.fixture(scope="session")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For servers of which no test reads the text: Qwen's vocabulary is most of a start."""
    return small.write(tmp_path_factory.mktemp("small") / "engine")


@pytest.fixture
def own_server(tmp_path: Path, small_engine: Path) -> Iterator[Callable[..., Server]]:
    """Start servers that a test may break: ``own_server("--fault", "die@20", …)``, on the small engine by default."""
    started: list[Server] = []

    def start(*arguments: str, gateway: bool = False) -> Server:
        engine = () if "--engine" in arguments else ("--engine", str(small_engine))
        server = start_server(tmp_path / f"serve{len(started)}.log", *engine, *arguments, gateway=gateway)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            stop_server(server)


@pytest.fixture
def ack_table(tmp_path: Path) -> Iterator[AckTable]:
    ack_table = AckTable.create(tmp_path / "ack_table", 64)
    yield ack_table
    ack_table.close()
