"""The gRPC proxy of a server: Envoy in front of a Triton that stays on localhost. It is restarted when it dies."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from contract.paths import ROOT
from serving.launch import child, envoy, logs
from serving.launch.config import Config, LaunchError, connectable
from serving.launch.deaths import Deaths

START_SECONDS = 20.0
FILE = "envoy.json"  # in the run directory; it holds the keys


def binary() -> Path:
    """Envoy of `make setup-router`, else the one on PATH. Raises ``LaunchError``."""
    for found in sorted(ROOT.glob(".venv-router/lib/python3*/site-packages/envoy/_bin/envoy")):
        return found
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise LaunchError("a key or certificates for gRPC need Envoy: run `make setup-router` once")


class GrpcProxy:
    """One for the life of a launcher. ``look`` at every turn."""

    def __init__(self, config: Config, run_dir: Path, log: Path) -> None:
        self._config, self._log = config, log
        self._file = run_dir / FILE
        self.process: subprocess.Popen[bytes] | None = None
        self._deaths = Deaths()
        self._due = 0.0

    def start(self) -> None:
        """Start Envoy and wait until it listens. Raises ``LaunchError`` when it ends or takes too long."""
        process = self._launch()
        until = time.monotonic() + START_SECONDS
        while not self._listens():
            if process.poll() is not None or time.monotonic() > until:
                raise LaunchError(f"Envoy did not start: {logs.last_line(self._log)} (log: {self._log})")
            time.sleep(0.05)
        self._forget_keys()

    def look(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            if self._file.exists() and self._listens():
                self._forget_keys()
            return
        now = time.monotonic()
        if not self._due:
            pause = self._deaths.add(now)
            self._due = now + pause
            logs.say(
                f"the gRPC proxy ended ({child.cause(self.process.returncode)}; log: {self._log}); restarting it"
                f"{f' in {pause:.0f} s' if pause else ''}"
            )
        if now >= self._due:
            self._due = 0.0
            self._launch()

    def stop(self) -> None:
        """After Triton: it carries the last answers."""
        if self.process is not None:
            child.stop(self.process, 1.0)
            self.process = None

    def _launch(self) -> subprocess.Popen[bytes]:
        config = self._config
        assert config.guard is not None
        host = "127.0.0.1" if config.triton_host == "localhost" else config.triton_host
        settings = envoy.grpc_proxy(host, config.grpc_port, config.guard, config.inner_grpc_port)
        self._file.write_text(json.dumps(settings))
        workers = str(min(4, len(os.sched_getaffinity(0))))
        command = [str(binary()), "-c", str(self._file), "--disable-hot-restart", "--concurrency", workers]
        with logs.open_private(self._log, "ab" if self._deaths else "wb") as log:
            self.process = child.start([*command, "--log-level", "warning"], {"PATH": os.defpath}, log, ROOT)
        return self.process

    def _forget_keys(self) -> None:
        """Once it listens it has read its file."""
        self._file.unlink(missing_ok=True)

    def _listens(self) -> bool:
        try:
            socket.create_connection((connectable(self._config.triton_host), self._config.grpc_port), 0.5).close()
        except OSError:
            return False
        return True
