"""Starts the workers, replaces those that die, forwards signals and leaves no process behind.

docs/decisions.md says why this is not uvicorn's own process manager.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

from prometheus_client import multiprocess

from contract.heartbeat import Heartbeat, Pulse, supervisor_path, worker_path
from serving import session_dir, tracing
from serving.gateway import listening, logs
from serving.gateway.core import auth
from serving.gateway.settings import GatewaySettings, GatewaySettingsError
from serving.host import orphans
from serving.host.signals import on_signals

log = logging.getLogger("serving.gateway")
PREFIX = "qwen-gateway-"
DEATHS, WITHIN = 5, 30.0  # this many dead workers within this many seconds: give up
WATCH_SECONDS = 0.1
HUNG_SECONDS = 5.0  # a worker whose event loop stands still for this long is replaced
START_SECONDS = 60.0  # the same for one that has not begun to serve


def hold_port(settings: GatewaySettings, *, launched: bool) -> socket.socket:
    """Reserve the port without listening. A launcher holds it for all its gateways, of which an earlier one's workers
    may still listen. Raises ``GatewaySettingsError`` when it is in use."""
    try:
        return (listening.listen if launched else listening.hold)(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise GatewaySettingsError(
            f"GATEWAY_PORT: {where} cannot be used ({error.strerror}); choose another port"
        ) from None


def _check_credentials(settings: GatewaySettings) -> None:
    """Raises ``GatewaySettingsError``. Most gateways need none, and the supervisor then does without gRPC's 30 MB."""
    if settings.triton_key_file or settings.triton_ca or settings.triton_certificate or settings.triton_certificate_key:
        from serving.gateway.core import tritons

        tritons.load(settings)


class WorkerSupervisor:
    def __init__(self, settings: GatewaySettings) -> None:
        auth.load(settings)  # reports a bad key file before anything starts
        _check_credentials(settings)
        if problem := tracing.obstacle():
            raise GatewaySettingsError(problem)
        self._settings = settings
        home = os.environ.get("RUN_DIR")  # set by the launcher, which watches this process
        self._held = hold_port(settings, launched=bool(home))
        self.port: int = self._held.getsockname()[1]
        self._heartbeat = Heartbeat.create(supervisor_path(Path(home))) if home else None
        parent = Path(home or tempfile.gettempdir())
        if not home:  # what killed gateways left; a launcher clears its own run directories
            for left, _ in session_dir.left_over(parent, PREFIX):
                shutil.rmtree(left, ignore_errors=True)
        self._run_dir, self._lock = session_dir.create(parent, PREFIX)
        self._pulses: dict[int, Pulse] = {}  # by pid
        self._workers: list[subprocess.Popen[bytes]] = []
        self._deaths: list[float] = []
        self._signal = 0  # the first one that came

    def run(self) -> int:
        on_signals(self._on_signal)
        try:
            for _ in range(self._settings.processes):
                self._workers.append(self._start())
            log.info(
                "gateway is listening",
                extra={"host": self._settings.host, "port": self.port, "workers": len(self._workers)},
            )
            return self._watch()
        finally:
            self._stop()
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._lock.close()

    def _on_signal(self, number: int, *_: object) -> None:
        """The second one ends open answers at once."""
        for process in self._workers if self._signal else ():
            if process.poll() is None:
                process.send_signal(signal.SIGUSR2)
        self._signal = self._signal or number

    def _start(self) -> subprocess.Popen[bytes]:
        names = {f.name: f.metadata["env"] for f in fields(GatewaySettings)}
        metrics = self._run_dir / "metrics"
        metrics.mkdir(exist_ok=True)
        environment = os.environ | {
            names["port"]: str(self.port),
            names["run_dir"]: str(self._run_dir),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }
        command = [sys.executable, "-m", "serving.gateway.worker"]
        # A worker that is alone listens on this process's socket: when it dies, clients wait in its queue for the next
        # one. With several the others take them; in the queue of a dead one they would wait for nothing.
        shared = [self._held.fileno()] if self._settings.processes == 1 else []
        command += map(str, shared)
        # A process group of its own: Ctrl-C in the terminal reaches the supervisor only, which stops the workers in
        # order. Not a session: see serving.launch.child. Safe, because this process has one thread.
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, preexec_fn=os.setpgrp, pass_fds=shared)

    def _watch(self) -> int:
        while not self._signal:
            time.sleep(WATCH_SECONDS)
            orphans.reap(self._workers)
            if self._heartbeat:
                self._heartbeat.beat()
            for at, process in enumerate(self._workers):
                self._kill_if_hung(process)
                if process.poll() is None:
                    continue
                self._forget(process)
                multiprocess.mark_process_dead(process.pid, str(self._run_dir / "metrics"))  # type: ignore[no-untyped-call]
                log.error("worker died", extra={"pid": process.pid, "status": process.returncode})
                if self._too_many_deaths():
                    log.error("gateway: workers keep dying; giving up")
                    return 1
                self._workers[at] = self._start()
        return 0

    def _kill_if_hung(self, process: subprocess.Popen[bytes]) -> None:
        """A worker whose event loop stands still would keep getting its share of new connections."""
        if process.pid not in self._pulses:
            self._pulses[process.pid] = Pulse(worker_path(self._run_dir, process.pid))
        pulse = self._pulses[process.pid]
        if pulse.look(WATCH_SECONDS) > (HUNG_SECONDS if pulse.has_begun else START_SECONDS):
            log.error("worker hangs", extra={"pid": process.pid, "seconds": round(pulse.silent)})
            process.kill()
            process.wait()

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        if pulse := self._pulses.pop(process.pid, None):
            pulse.close()
        worker_path(self._run_dir, process.pid).unlink(missing_ok=True)

    def _too_many_deaths(self) -> bool:
        now = time.monotonic()
        self._deaths = [t for t in self._deaths if now - t < WITHIN] + [now]
        return len(self._deaths) >= DEATHS

    def _stop(self) -> None:
        settings = self._settings
        number = signal.SIGINT if self._signal in (0, signal.SIGINT) else signal.SIGTERM  # a worker knows no other
        self._held.close()  # the last worker's end is the end of its queue
        for process in self._workers:
            if process.poll() is None:
                process.send_signal(number)
        lame = settings.lame_duck_seconds if number == signal.SIGTERM else 0.0
        until = time.monotonic() + lame + settings.drain_seconds + 7
        for process in self._workers:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    try:
        settings = GatewaySettings.from_environment()
        logs.configure(settings.log_level)
        supervisor = WorkerSupervisor(settings)
    except GatewaySettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    if settings.host not in ("127.0.0.1", "localhost", "::1") and not (settings.api_keys or settings.api_keys_file):
        log.warning("HOST exposes the gateway to the network without API keys; set GATEWAY_API_KEYS_FILE")
    return supervisor.run()
