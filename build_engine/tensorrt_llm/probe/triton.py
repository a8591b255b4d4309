"""TensorRT-LLM inside the real tritonserver: in a bare Python model, under `make serve`, and after both have stopped.

``python3 -m build_engine.tensorrt_llm.probe.triton --engine DIR --work DIR``
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from build_engine.tensorrt_llm.probe.findings import ProbeResult, judged, write
from contract.arguments import Arguments
from contract.paths import ROOT
from serving.launch import config, shm, triton

START_S, STOP_S = 300.0, 20.0
UNNAMED = 12345  # a user id without a name or a home, as in a container that runs as its caller
SEND = "send us probe.json and probe.log"
MODEL = """import sys
from pathlib import Path

sys.path.insert(0, {root!r})

from build_engine.tensorrt_llm.probe import stub


class TritonPythonModel:
    def initialize(self, args):
        self.session = stub.report(Path({engine!r}), Path({output!r}))

    def execute(self, requests):
        return [None for _ in requests]

    def finalize(self):
        self.session.close()
"""
CONFIG = """backend: "python"
max_batch_size: 0
input [{ name: "nothing" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "nothing_too" data_type: TYPE_INT32 dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def bare(engine: Path, work: Path, *, user: int | None = None, settings: Mapping[str, str] | None = None,
         seconds: float = START_S) -> Iterator[ProbeResult]:  # fmt: skip
    """``LLM()`` in a model that does nothing else. ``user``: run as that id, which only root can do."""
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o777)  # the other user writes there
    output, log = work / "stub.json", work / "tritonserver.log"
    output.unlink(missing_ok=True)
    label = f"LLM() in a Python stub, uid {os.getuid() if user is None else user}"
    prefix = f"probe_{os.getpid()}_"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(write_model(work, engine, output), prefix), env=environment(engine, work, settings or {}),
            stdout=file, stderr=file, cwd=work, start_new_session=True, user=user, group=user,
        )  # fmt: skip
    until(lambda: output.is_file() or process.poll() is not None, seconds)
    facts = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"error": last_line(log)}
    yield from rows(label, facts, single="TLLM_WORKER_USE_SINGLE_PROCESS" in (settings or {}))
    if "error" not in facts or process.poll() is None:
        yield stopped(f"{label}: tritonserver stops", process)
    shm.remove(prefix)  # a Triton that gives up while it loads leaves its own


def rows(label: str, facts: Mapping[str, Any], *, single: bool) -> Iterator[ProbeResult]:
    if "error" in facts:
        yield ProbeResult(label, "fail", str(facts["error"])[:200], f"try TLLM_WORKER_USE_SINGLE_PROCESS=1; {SEND}")
        return
    good = facts["tokens"] == 16 and facts["reason"] == "length"
    yield judged(label, good, f"{facts['tokens']} tokens, {facts['reason']}, user {facts['user'] or 'without a name'}",
                 SEND)  # fmt: skip
    python = Path(facts["executable"]).name.startswith("python")
    found = f"{facts['executable']} (the stub had {facts['executable_before'] or 'none'})"
    yield judged(f"{label}: interpreter of the workers", python, found, SEND)
    names = ", ".join(facts["mpi"]) or f"none left of {len(facts['mpi_before'])}"
    yield judged(f"{label}: variables of an MPI job", not facts["mpi"], names, SEND)
    children = facts["children"]
    found = ", ".join(children) or "none: a killed worker is the stub itself"
    yield judged(f"{label}: worker processes", bool(children) is not single, found, SEND, breaks=False)


def served(engine: Path, work: Path, seconds: float = START_S) -> Iterator[ProbeResult]:
    """`make serve`: an answer through the whole ensemble, then SIGTERM."""
    work.mkdir(parents=True, exist_ok=True)
    ports = [free_port() for _ in range(3)]
    argv = [sys.executable, "-m", "serving", "--engine", str(engine), "--gateway-port", "0", "--drain", "1"]
    for name, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        argv += [f"--{name}-port", str(port)]
    log = work / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)
    url = f"http://127.0.0.1:{ports[0]}/v2"
    ready = until(lambda: process.poll() is not None or answers(f"{url}/health/ready"), seconds)
    if not ready or process.poll() is not None:
        yield ProbeResult("make serve answers", "fail", last_line(log), SEND)
    else:
        body = {"text_input": "Hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(f"{url}/models/qwen/generate", json=body, timeout=60)
        good = answer.status_code == 200 and answer.json()["completion_tokens"] == 8
        yield judged("make serve answers", good, "8 tokens" if good else answer.text[:200], SEND)
    yield stopped("make serve stops", process)


def stopped(check: str, process: subprocess.Popen[bytes]) -> ProbeResult:
    """Send SIGTERM; nothing that ``process`` started may be left after 20 s. Kill what is left."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        left = psutil.wait_procs(started, max(0.0, STOP_S - (time.monotonic() - began)))[1]
        found = f"all {len(started) + 1} processes ended within {time.monotonic() - began:.1f} s"
        names = [f"{each.name()} {each.pid}" for each in left] + (
            [] if process.poll() is not None else ["tritonserver"]
        )
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        if process.poll() is None:
            process.kill()
            process.wait()
        remedy = f"end them by hand before the next start; {SEND}"
        return judged(check, not names, f"left after {STOP_S:.0f} s: {', '.join(names)}" if names else found, remedy)
    return ProbeResult(check, "fail", "it had ended before", SEND)


def write_model(work: Path, engine: Path, output: Path) -> Path:
    """A model repository of one model that calls ``stub.report``."""
    folder = work / "models" / "probe"
    (folder / "1").mkdir(parents=True, exist_ok=True)
    text = MODEL.format(root=str(ROOT), engine=str(engine), output=str(output))
    (folder / "1" / "model.py").write_text(text, encoding="utf-8")
    (folder / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
    return folder.parent


def command(repository: Path, shm_prefix: str) -> list[str]:
    server, backends = triton.binary()
    found = [str(server), f"--model-repository={repository}", "--allow-grpc=false", "--allow-metrics=false"]
    found += ["--http-address=127.0.0.1", f"--http-port={free_port()}", "--disable-auto-complete-config"]
    found += [f"--backend-config=python,shm-region-prefix-name={shm_prefix}"]
    return [*found, f"--exit-timeout-secs={STOP_S:.0f}", *([f"--backend-directory={backends}"] if backends else [])]


def environment(engine: Path, work: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment that the launcher sets, with a home that every user can write to: id 12345 has none."""
    asked = config.parse(["--engine", str(engine)])
    return triton.environment(asked, work) | {"HOME": str(work), "USER": "qwen"} | dict(settings)


def until(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).status_code == 200
    return False


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no output"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    """One stub as this user: `make probe` runs it as another user in a second container."""
    parser = Arguments(prog="python3 -m build_engine.tensorrt_llm.probe.triton", description=__doc__)
    parser.add_argument("--engine", type=Path, required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="rows.json is written there")
    args = parser.parse_args(argv)
    write(list(bare(args.engine.absolute(), args.work.absolute())), args.work / "rows.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
