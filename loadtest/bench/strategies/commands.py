"""Build engines and run load tests: every figure of the table comes from a command that a reader can repeat."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contract.paths import ROOT
from loadtest.bench.process import Server, as_typed
from loadtest.console import show
from loadtest.errors import LoadtestError

DURATIONS = ("15s", "45s", "120s")
ENOUGH = 5  # requests, for a median


def build_engine(model: str, precision: str, out: Path, runtime: str) -> str:
    """Build once (the builder skips what is up to date); the command. Raises ``LoadtestError``."""
    command = [sys.executable, "-m", "build_engine", "build", "--model", model, "--precision", precision]
    command += ["--out", str(out), "--runtime", runtime]
    if runtime == "vllm" and (out / "engine.json").is_file():  # its builder always builds anew
        return as_typed(command)
    run(command, f"engine {precision}: the build failed")
    return as_typed(command)


def run_json(command: list[str]) -> Any:
    """The last line that the command prints, as JSON. Raises ``LoadtestError``."""
    return json.loads(run(command, f"{command[2]} failed").splitlines()[-1])


def run(command: list[str], failure: str) -> str:
    """Standard output. Raises ``LoadtestError`` with ``failure`` and the last line when the command fails."""
    show(f"$ {as_typed(command)}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise LoadtestError(f"{failure}: {' '.join(last)}")
    return done.stdout


def load_test(server: Server, *options: str) -> tuple[dict[str, Any], str]:
    """A load test against ``server``: its summary and its command. Raises ``LoadtestError``.

    The window grows on a slow machine until enough requests complete within it."""
    for duration in DURATIONS:
        summary, command = _load_test(server, "--duration", duration, *options)
        if summary["total"]["counts"]["completed"] >= ENOUGH:
            break
    if not summary["total"]["counts"]["completed"]:
        raise LoadtestError(f"no request was answered in {duration}: {summary['total']['errors']}")
    return summary, command


def _load_test(server: Server, *options: str) -> tuple[dict[str, Any], str]:
    ports = ["--grpc-port", str(server.ports["grpc"]), "--metrics-port", str(server.ports["metrics"])]
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "loadtest", "run", *ports, *options]
        show(f"$ {as_typed(command)}")
        done = subprocess.run([*command, "--out", directory], cwd=ROOT, capture_output=True, text=True, check=False)
        path = Path(directory) / "summary.json"
        if not path.is_file():
            raise LoadtestError(f"the run left no report: {(done.stderr or done.stdout).strip()[-300:]}")
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary, as_typed(["python", "-m", "loadtest", "run", *options])
