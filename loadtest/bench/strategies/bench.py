"""Build engines, start servers, run the load generator: every figure of the table comes through here, as a command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from contract.paths import ROOT
from loadtest.console import show
from loadtest.errors import LoadtestError
from loadtest.scrape import parse, value_of

START_S = 240.0
DURATIONS = ("15s", "45s", "120s")
ENOUGH = 5  # requests, for a median


def shown(command: list[str]) -> str:
    """The command as one would type it."""
    return " ".join(["python" if part == sys.executable else part for part in command])


def build_engine(model: str, precision: str, out: Path) -> str:
    """Build once (the builder leaves alone what is up to date); the command. Raises ``LoadtestError``."""
    command = [sys.executable, "-m", "build_engine", "build", "--model", model, "--precision", precision]
    command += ["--out", str(out)]
    show(f"$ {shown(command)}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise LoadtestError(f"engine {precision}: the build failed: {' '.join(last)}")
    return shown(command)


@dataclass
class Server:
    process: subprocess.Popen[str]
    grpc_port: int
    metrics_port: int
    command: str

    def metric(self, name: str) -> float | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            return value_of(parse(answer.read().decode()), name)

    def memory_mib(self) -> float:
        """Of the largest process of the server, the one that holds the model: resident memory, peak of its life."""
        tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return max(_resident(process) for process in tree) / 2**20

    def run(self, *options: str) -> tuple[dict[str, Any], str]:
        """A load test against this server: its summary and its command. Raises ``LoadtestError``.

        Slow machines get longer windows, until some requests have been answered in one."""
        for duration in DURATIONS:
            summary, command = self._run("--duration", duration, *options)
            if summary["total"]["counts"]["completed"] >= ENOUGH:
                break
        if not summary["total"]["counts"]["completed"]:
            raise LoadtestError(f"no request was answered in {duration}: {summary['total']['errors']}")
        return summary, command

    def _run(self, *options: str) -> tuple[dict[str, Any], str]:
        with tempfile.TemporaryDirectory() as directory:
            given = ["--grpc-port", str(self.grpc_port), "--metrics-port", str(self.metrics_port), *options]
            command = [sys.executable, "-m", "loadtest", "run", *given]
            show(f"$ {shown(command)}")
            done = subprocess.run([*command, "--out", directory], cwd=ROOT, capture_output=True, text=True, check=False)
            path = Path(directory) / "summary.json"
            if not path.is_file():
                raise LoadtestError(f"the run left no report: {(done.stderr or done.stdout).strip()[-300:]}")
            summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary, shown(["python", "-m", "loadtest", "run", *options])


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def serving(engine: Path, *options: str) -> Iterator[Server]:
    """A server on free ports, stopped afterwards. Raises ``LoadtestError`` when it does not come up."""
    http, grpc, metrics = _free_ports(3)
    given = ["--engine", str(engine), "--gateway-port", "0", *options]
    ports = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics), "--drain", "1"]
    command = [sys.executable, "-m", "serving", *given, *ports]
    show(f"$ {shown(command)}")
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True, env=os.environ | {"COLUMNS": "200"}
        )
        try:
            _await(process, Path(log.name))
            yield Server(process, grpc, metrics, shown(["python", "-m", "serving", *given]))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while "Ctrl-C" not in log.read_text(encoding="utf-8"):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8").strip().splitlines()
            raise LoadtestError(f"the server did not start: {lines[-1] if lines else 'no output'}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
