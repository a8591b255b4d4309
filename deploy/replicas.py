"""What stands behind the routers of ``make cluster``: servers of ours, and a gateway in front of each.

smg cannot resend an answer that breaks off, so what it talks to must outlive the replica that makes the answer: a
gateway apart from it, on the routers' host. It uses one replica, where smg's affinity has put the conversation's cache,
and goes on at the others when that one dies.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.envoy import CHECK_SECONDS
from deploy.processes import Router, ready, say, spawn, stop
from serving.launch.config import Config
from serving.launch.deaths import Deaths
from serving.launch.logs import last_line

LOOK_SECONDS = 3 * CHECK_SECONDS  # until both routers know for certain: the next question, its answer, and one to spare
START_SECONDS = 900  # an engine may have to be loaded from a slow disk
FRONT_SECONDS = 120


def gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return len(re.findall(r"^GPU \d+", listed, flags=re.MULTILINE))


@dataclass
class Replica:
    """One ``python -m serving`` of ours; its ports stay the same when it is replaced."""

    number: int
    ports: list[int]  # gateway, gRPC, HTTP, metrics
    options: list[str]
    gpu: int | None
    log: Path
    process: subprocess.Popen[bytes] | None = None
    begun: float = 0.0
    _deaths: Deaths = field(default_factory=Deaths)
    _due: float = 0.0  # when the next one is started; 0: not decided

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        names = ("--gateway-port", "--grpc-port", "--http-port", "--metrics-port")
        ports = [text for name, port in zip(names, self.ports, strict=True) for text in (name, str(port))]
        visible = {"GATEWAY_WORKERS": "1"}  # it tells the routers how the replica is; requests come through a front
        if self.gpu is not None:
            visible["CUDA_VISIBLE_DEVICES"] = str(self.gpu)
        self.begun, self._due = time.monotonic(), 0.0
        self.process = spawn([sys.executable, "-m", "serving", *ports, *self.options], self.log, visible)

    def look(self) -> None:
        """Start it again when it has ended; after a pause when it does so again and again."""
        now = time.monotonic()
        if self.process is None or self.process.poll() is None:
            return
        if not self._due:
            pause = self._deaths.add(now)
            self._due = now + pause
            word = f"ended with {self.process.returncode}; it is started again{f' in {pause:.0f} s' if pause else ''}"
            say(f"replica {self.number} {word} (log: {self.log})")
        if now >= self._due:
            try:
                self.start()
            except OSError as error:  # the others serve on
                say(f"replica {self.number} cannot be started: {error.strerror}")

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until it can answer. Raises ``RuntimeError`` if it ends before that or takes too long."""
        assert self.process is not None
        while not ready(f"{self.url}/health/ready"):
            if self.process.poll() is not None or time.monotonic() - self.begun > START_SECONDS:
                raise RuntimeError(f"replica {self.number} did not start: {last_line(self.log)} (log: {self.log})")
            meanwhile()
            time.sleep(0.2)
        where = "" if self.gpu is None else f", GPU {self.gpu}"
        say(
            f"replica {self.number} ready after {time.monotonic() - self.begun:.0f} s: "
            f"{self.url}{where}, pid {self.process.pid}"
        )


@dataclass(frozen=True)
class Home:
    """Where a front finds its replica: gRPC address, and URL of its metrics."""

    grpc: str
    metrics: str


class Front(Router):
    """A gateway on the routers' host that belongs to one replica."""

    @classmethod
    def of(cls, number: int, homes: Sequence[Home], port: int, serving: Config, run: Path) -> Front:
        """The front of ``homes[number]``; the other homes are its peers. ``serving``: what the replicas were started
        with, or at least a directory with their ``engine.json`` and tokenizer."""
        home, peers = homes[number], [home.grpc for i, home in enumerate(homes) if i != number]
        environment = {
            "HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TRITON_GRPC": home.grpc, "GATEWAY_PEERS": ",".join(peers),
            "TRITON_METRICS": home.metrics, "ENGINE_DIR": str(serving.engine),
            "GATEWAY_OPEN_MODELS": "1",  # to smg, which has no key
            "GATEWAY_LAME_DUCK_SECONDS": str(serving.lame_duck), "GATEWAY_DRAIN_SECONDS": str(serving.drain),
        }  # fmt: skip
        return cls([sys.executable, "-m", "serving.gateway"], run / f"front{number}.log", environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until it can answer. Raises ``RuntimeError`` if it ends before that or takes too long."""
        begin = time.monotonic()
        while not ready(f"{self.url}/health/ready"):
            if self.ended() or time.monotonic() - begin > FRONT_SECONDS:
                raise RuntimeError(f"{self.name} did not start; see {self.log}")
            meanwhile()
            time.sleep(0.1)


def replace(replica: Replica, front: Front, meanwhile: Callable[[], None]) -> None:
    """Restart both: lame ducks first, then both drain. What the replica refuses, its front sends to the others."""
    stop([each for each in (replica.process, front.process) if each], meanwhile=meanwhile)
    replica.start()
    replica.wait(meanwhile)
    front.start()
    front.wait(meanwhile)
