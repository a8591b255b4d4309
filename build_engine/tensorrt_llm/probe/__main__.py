"""``python3 -m build_engine.tensorrt_llm.probe``: about ten minutes on a GPU host, no model download.

A tiny model with random weights is built in each precision and asked for everything the adapter counts on. On a Docker
host the probe runs in the pinned container. Exit code 1: something that serving needs does not hold.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from build_engine.synthetic import checkpoint
from build_engine.tensorrt_llm.probe import environment, findings, surface
from build_engine.tensorrt_llm.probe.findings import ProbeResult
from contract import gpus
from contract.errors import BuildError
from contract.paths import ROOT
from contract.versions import pinned
from serving.host import container
from serving.host.container import Mount
from serving.host.machine import installed_version

CONTEXT = "16384"  # more than one step, so that chunked prefill is tried
SECONDS = 900
SINGLE = {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
log = logging.getLogger(__name__)


def kinds(gpu: gpus.Gpu) -> list[tuple[str, str]]:
    """(precision, backend) that this GPU takes."""
    found = [("bf16", "engine"), ("bf16", "pytorch")]
    found += [("int8_wo", "engine"), ("int8_sq", "engine")] if gpu.has_int8_engine else []
    return found + ([("fp8", "engine"), ("fp8", "pytorch")] if gpu.has_fp8 else [])


def build(model: Path, out: Path, precision: str, backend: str) -> ProbeResult:
    """With our own builder; the accuracy gate of random weights may fail and is not judged."""
    argv = [sys.executable, "-m", "build_engine", "build", "--runtime", "tensorrt_llm", "--model", str(model)]
    argv += ["--precision", precision, "--backend", backend, "--context", CONTEXT, "--out", str(out)]
    text = run(argv)
    built = (out / "engine.json").is_file()
    last = (text.strip().splitlines() or ["no output"])[-1]
    return findings.judged(
        f"build {precision} {backend}", built, "built" if built else last, "the tool's output is in probe.log"
    )


def run(argv: Sequence[str], **environment: str) -> str:
    log.info("  %s", " ".join(argv))
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SECONDS,
                                env={**os.environ, **environment})  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    log.debug("%s\n%s", answer.stdout, answer.stderr)
    return answer.stdout + answer.stderr


def ask(engine: Path, part: str, label: str, **environment: str) -> Iterator[ProbeResult]:
    output = engine.parent / f"{engine.name}-{part}.json"
    output.unlink(missing_ok=True)
    module = "build_engine.tensorrt_llm.probe.behaviour"
    text = run([sys.executable, "-m", module, "--engine", str(engine), "--part", part, "--output", str(output)],
               **environment)  # fmt: skip
    if not output.is_file():
        last = (text.strip().splitlines() or ["no output"])[-1]
        yield ProbeResult(f"{label}: {part}", "fail", last, "see probe.log; try TLLM_WORKER_USE_SINGLE_PROCESS=1")
        return
    for finding in findings.read(output):
        yield ProbeResult(f"{label}: {finding.check}", finding.status, finding.found, finding.remedy)


def probe(work: Path) -> Iterator[ProbeResult]:
    version = installed_version("tensorrt_llm")
    wanted = pinned("tensorrt_llm")
    yield findings.judged(
        "version", version == wanted, version or "none", f"use {container.image()}, which has {wanted}"
    )
    yield environment.packages(work)
    yield from environment.imports()
    yield from examined()
    detected = gpus.detect()
    if not detected:
        yield ProbeResult("GPU", "fail", "none visible", "install NVIDIA's driver and container toolkit")
        return
    before = environment.used_memory()
    model = work / "tiny-random"
    checkpoint.write(checkpoint.SHAPES["synthetic"], model)
    for precision, backend in kinds(detected[0].gpu):
        out = work / f"{precision}-{backend}"
        yield (built := build(model, out, precision, backend))
        if built.status != "pass":
            continue
        for part in ("answers", "scores"):
            yield from ask(out, part, out.name)
    first = work / "bf16-engine"
    for part in ("death-idle", "death-busy"):
        yield from ask(first, part, first.name)
    yield from ask(first, "answers", "single process", **SINGLE)
    yield environment.freed(before, environment.used_memory())


def examined() -> Iterator[ProbeResult]:
    """The declared names; a package or tool that is missing is a finding, not a traceback."""
    try:
        yield from surface.examine()
    except (ImportError, AttributeError, OSError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        yield ProbeResult("surface", "fail", reason, f"use {container.image()}, which has all of it")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m build_engine.tensorrt_llm.probe", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("probe"), metavar="DIR", help="default: %(default)s")
    out = parser.parse_args(argv).out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.DEBUG, filename=out / "probe.log", format="%(asctime)s %(message)s")
    if not container.inside():
        command = container.run_command(
            ["python3", "-m", "build_engine.tensorrt_llm.probe", "--out", str(out)],
            [Mount(ROOT), Mount(out, writable=True)],
        )
        return in_container(command)
    found = []
    for finding in probe(out):
        print(f"{finding.status:8} {finding.check}: {finding.found}", flush=True)
        found.append(finding)
        findings.write(found, out / "probe.json")
    findings.show(found, Console())
    print(f"{out / 'probe.json'}: send us this file")
    return findings.exit_code(found)


def in_container(command: Sequence[str]) -> int:
    try:
        for argv in (container.image_command(), command):
            code = subprocess.run(argv, check=False).returncode
            if code:
                return code
    except FileNotFoundError:
        raise BuildError("Docker is not installed: install docker-ce and nvidia-container-toolkit") from None
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BuildError as error:
        sys.exit(f"error: {error}")
