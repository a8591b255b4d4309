"""The child processes of ``make cluster``: started in sessions of their own, drained in order, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from contract.direct_http import DIRECT
from contract.paths import ROOT
from serving.launch import child

DRAIN_SECONDS = 180
AT_ONCE, WINDOW = 3, 60.0  # a router that ended more often than this within WINDOW seconds ends the cluster


def say(line: str) -> None:
    print(f"cluster: {line}", flush=True)


def ready(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def spawn(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start in a session of its own, so that Ctrl-C reaches the cluster alone, which then drains in order. It cannot
    outlive a killed cluster."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {})}, preexec_fn=child.die_with_parent,
        )  # fmt: skip


@dataclass
class Router:
    """smg, Envoy or a gateway in front. One that dies is started again: only the streams it carried are lost."""

    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    _ends: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.log.stem

    def start(self) -> None:
        self.process = spawn(self.command, self.log, self.environment)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def kill(self) -> None:
        """Kill it and the workers that it started."""
        if self.process is None or self.process.poll() is not None:
            return
        with suppress(psutil.NoSuchProcess):
            for worker in psutil.Process(self.process.pid).children(recursive=True):
                worker.kill()
        self.process.kill()

    def restart(self) -> None:
        """Raises ``RuntimeError`` when it has ended too often."""
        assert self.process is not None
        now = time.monotonic()
        self._ends = [*(end for end in self._ends if now - end < WINDOW), now]
        if len(self._ends) > AT_ONCE:
            raise RuntimeError(f"{self.name} ends again and again; see {self.log}")
        say(f"{self.name} ended with {self.process.returncode}; it is started again")
        self.start()


def stop(
    processes: list[subprocess.Popen[bytes]],
    number: signal.Signals = signal.SIGTERM,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Drain them side by side; one that hangs is killed. After SIGTERM our servers are lame ducks first."""
    for process in processes:
        process.send_signal(number)
    deadline = time.monotonic() + DRAIN_SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        meanwhile()
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
