"""The processes that a benchmark starts: awaited, measured (CPU, memory) and stopped with everything they started.

with started("--runtime", "simulated") as server:        # one server on free ports
with ExitStack() as stack:                                # N servers that load at the same time
    servers = [stack.enter_context(Server(...)) for _ in range(n)]; [s.wait() for s in servers]
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from contract.handover import ctrl_c_waits
from contract.paths import ROOT
from loadtest import prometheus
from loadtest.errors import LoadtestError
from serving.host.ports import free_ports

START_S = 240.0
STOP_S = 60.0
ORPHANS_S = 3.0  # for what the process started to end by itself
LOGS = ROOT / ".run"
PORTS = ("http", "grpc", "metrics", "gateway")


def as_typed(command: Sequence[str]) -> str:
    """The command as one would type it."""
    return " ".join("python" if part == sys.executable else part for part in command)


def _stop_children_on_sigterm() -> None:
    """A benchmark that is ended (``timeout``, a pipeline) leaves as on Ctrl-C: through its ``with`` blocks."""
    with contextlib.suppress(ValueError):  # not the main thread: it has done so, or nobody wants it
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class BenchProcess:
    """A child process with a log. ``launch`` and ``wait`` are apart so that several can load at once."""

    stop_signal = signal.SIGTERM  # not SIGINT, which a shell's background jobs ignore

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        name: str = "the process",
        start_s: float = START_S,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.command, self.log, self.name, self.start_s = list(command), log, name, start_s
        self.environment = environment or {}  # beside this process's own
        self.popen: subprocess.Popen[str] | None = None

    def __enter__(self) -> BenchProcess:
        self.launch()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def launch(self, stdout: Any = None) -> None:
        """``stdout``: where it goes instead of the log. The terminal's Ctrl-C is ours alone to pass on."""
        _stop_children_on_sigterm()
        with self.log.open("w", encoding="utf-8") as log:
            self.popen = subprocess.Popen(
                self.command, cwd=ROOT, stdin=subprocess.PIPE, stdout=stdout or log, stderr=log, text=True,
                start_new_session=True, env=os.environ | {"COLUMNS": "200"} | self.environment,
            )  # fmt: skip

    def ready(self) -> bool:
        return True

    def wait(self) -> None:
        """Wait until it is ready. Raises ``LoadtestError`` when it ends first or takes too long."""
        deadline = time.monotonic() + self.start_s
        while not self.ready():
            if self.popen is not None and self.popen.poll() is not None:
                raise LoadtestError(f"{self.name} did not start: {self.last_line()}; log: {self.log}")
            if time.monotonic() > deadline:
                raise LoadtestError(f"{self.name} was not ready within {self.start_s:.0f} s; log: {self.log}")
            time.sleep(0.1)

    def last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    @ctrl_c_waits()
    def stop(self) -> None:
        """``stop_signal``, then SIGKILL after ``STOP_S``; the same for what it started. Safe to call twice.

        A Ctrl-C waits until it is over: a second one would leave what the first one was to stop."""
        if self.popen is None:
            return
        children = self.processes()[1:]
        self.popen.send_signal(self.stop_signal)
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # unsent input of a process that is gone
                    pipe.close()
        left = psutil.wait_procs(children, ORPHANS_S)[1]
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(left, 1)

    def processes(self) -> list[psutil.Process]:
        """The process and its descendants; none when it has ended."""
        if self.popen is None or self.popen.poll() is not None:
            return []
        return tree(self.popen.pid)

    def cpu_seconds(self, containing: str = "") -> float:
        """User and system time so far, of the processes whose command line contains ``containing``."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if not containing or any(containing in part for part in process.cmdline()):
                    times = process.cpu_times()
                    total += times.user + times.system
        return total

    def memory_mib(self) -> dict[str, float]:
        return memory_mib(self.processes())


def tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_mib(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Resident memory in MiB by process, as ``name pid``."""
    found: dict[str, float] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[f"{process.name()} {process.pid}"] = round(process.memory_info().rss / 2**20, 1)
    return found


class Server(BenchProcess):
    """``python -m serving OPTIONS`` on free ports, or on ``ports`` (http, grpc, metrics, gateway; gateway 0: none)."""

    def __init__(
        self, *options: str, log: Path, gateway: bool = False, ports: Sequence[int] = (), start_s: float = START_S
    ) -> None:
        self.ports = dict(zip(PORTS, ports or free_ports(4), strict=True))
        if not gateway:
            self.ports["gateway"] = 0
        flags = [part for name, port in self.ports.items() for part in (f"--{name}-port", str(port))]
        self.options = options
        command = [sys.executable, "-m", "serving", *options, *flags, "--drain", "1"]
        super().__init__(command, log, name="the server", start_s=start_s)

    @property
    def typed(self) -> str:
        """The command that starts the same server on the default ports."""
        return as_typed(["python", "-m", "serving", *self.options])

    def ready(self) -> bool:
        return "Ctrl-C" in self.log.read_text(encoding="utf-8", errors="replace")

    def metric(self, selector: str) -> float | None:
        """A metric of the server; ``selector`` as in ``prometheus.value_of``."""
        return prometheus.value_of(prometheus.fetch(f"http://127.0.0.1:{self.ports['metrics']}/metrics"), selector)


@contextlib.contextmanager
def started(*options: str, gateway: bool = False, cores: Collection[int] = ()) -> Iterator[Server]:
    """A ready server, on ``cores`` only, stopped afterwards. Raises ``LoadtestError`` when it does not start."""
    LOGS.mkdir(exist_ok=True)
    ports = free_ports(4)
    server = Server(*options, log=LOGS / f"bench-{ports[0]}.log", gateway=gateway, ports=ports)
    if cores:
        server.command = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *server.command]
    with server:
        server.wait()
        yield server
    server.log.unlink()  # after a failure it stays
