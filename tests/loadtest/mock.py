"""Start the calibrated server, run the load generator against it as a user would, read what came out."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.paths import ROOT


@dataclass
class Mock:
    process: subprocess.Popen[str]
    grpc: int
    gateway: int

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.gateway}{path}", timeout=5) as answer:
            return json.load(answer)

    @property
    def ports(self) -> list[str]:
        ports = {"--grpc-port": self.grpc, "--gateway-port": self.gateway, "--metrics-port": self.gateway}
        return [str(part) for pair in ports.items() for part in pair]


@contextmanager
def started(*options: str, server: str = "mock_server") -> Iterator[Mock]:
    command = [sys.executable, "-m", f"tests.loadtest.{server}", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    try:
        ports = json.loads(process.stdout.readline())
        yield Mock(process, ports["grpc"], ports["gateway"])
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


@dataclass
class Result:
    code: int
    output: str
    directory: Path

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "summary.json").read_text(encoding="utf-8"))
        return found

    @property
    def requests(self) -> list[dict[str, Any]]:
        lines = (self.directory / "requests.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def loadtest(directory: Path, *options: str, action: str = "run", timeout: float = 120) -> Result:
    """``python -m loadtest ACTION …`` as a process of its own, from the repository's root."""
    command = [sys.executable, "-m", "loadtest", action, *options]
    command += ["--out", str(directory)] if action == "run" else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    return Result(done.returncode, done.stdout + done.stderr, directory)
