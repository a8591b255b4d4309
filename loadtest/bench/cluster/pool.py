"""Replicas of a benchmark and the real routers in front of them."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import psutil

from loadtest.bench.process import LOGS, BenchProcess, Server
from loadtest.errors import LoadtestError
from serving.host.ports import free_ports
from serving.launch.config import SIMULATED_ENGINE

LAME_DUCK = "3"  # seconds, as `make cluster` gives its own
DRAIN = "20"  # seconds that a replica's open answers get
FOLDER = LOGS / "bench-cluster"
ROUTERS = Path(".venv-router/bin/envoy")


class Routers(BenchProcess):
    """smg on ``http`` and Envoy on ``grpc`` in front of ``servers``; ``policy`` is smg's."""

    def __init__(self, servers: Sequence[Server], policy: str) -> None:
        engine = next((after for word, after in pairwise(servers[0].command) if word == "--engine"), SIMULATED_ENGINE)
        self.http, self.grpc = free_ports(2)
        folder = FOLDER / f"routers-{self.http}"
        folder.mkdir(parents=True)
        urls = ",".join(f"http://127.0.0.1:{server.ports['gateway']}" for server in servers)
        command = [
            sys.executable, "-m", "deploy.cluster", "--replicas", urls, "--port", str(self.http), "--policy", policy,
            "--replica-grpc-port", ",".join(str(server.ports["grpc"]) for server in servers),
            "--grpc-port", str(self.grpc), "--run", str(folder), "--", "--engine", str(engine), "--drain", DRAIN,
        ]  # fmt: skip
        super().__init__(command, folder / "cluster.log", name="the routers", start_s=120)
        self.environment = {"GATEWAY_WORKERS": "1"}

    def ready(self) -> bool:
        return "Ctrl-C" in self.log.read_text(encoding="utf-8", errors="replace")

    def router(self, name: str) -> psutil.Process:
        """``smg`` or ``envoy``."""
        return next(each for each in self.processes() if re.match(name, each.name()))


@contextlib.contextmanager
def replicas(count: int, *options: str, each: Sequence[str] = ()) -> Iterator[list[Server]]:
    """Servers, ready. ``each``: an option's value for every one."""
    all_ports = free_ports(4 * count)
    groups = [all_ports[4 * i : 4 * i + 4] for i in range(count)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        servers = []
        for i, ports in enumerate(groups):
            more = ("--step-ms", each[i]) if each else ()
            server = Server(*options, *more, log=FOLDER / f"replica-{ports[0]}.log", gateway=True, ports=ports)
            server.command += ["--lame-duck", LAME_DUCK, "--drain", DRAIN]
            server.environment = {"GATEWAY_WORKERS": "1"}
            stack.enter_context(server)
            servers.append(server)
        for server in servers:
            server.wait()
        yield servers


@contextlib.contextmanager
def routed(servers: Sequence[Server], policy: str = "cache_aware") -> Iterator[Routers]:
    routers = Routers(servers, policy)
    with routers:
        routers.wait()
        yield routers


def clean() -> None:
    if not ROUTERS.exists():
        raise LoadtestError("smg and Envoy are not installed here: run `make setup-router`")
    shutil.rmtree(FOLDER, ignore_errors=True)


def kill(server: Server, *, whole: bool) -> None:
    """SIGKILL to the launcher alone, or to every process of the replica at once."""
    family = server.processes()
    for process in family if whole else family[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
