"""``python3 -m build_engine.tensorrt_llm.probe``: about ten minutes on a GPU host, no model download.

A tiny model with random weights is built in each precision and tested for everything that the adapter relies on. On a
Docker host the probe runs in the pinned container. Exit code 1: something that serving needs does not hold.
"""

from __future__ import annotations

import contract.program

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from build_engine.synthetic import checkpoint
from build_engine.tensorrt_llm.preflight import docker_problem
from build_engine.tensorrt_llm.probe import environment, facts, findings, readback, triton
from build_engine.tensorrt_llm.probe.findings import ProbeResult
from contract import engine_dir, gpus
from contract.arguments import Arguments
from contract.errors import BuildError
from contract.paths import ROOT
from contract.versions import pinned
from serving.host import container
from serving.host.container import Mount
from serving.host.machine import version_here

CONTEXT = "16384"  # more than one step, to exercise chunked prefill
SECONDS = 900
FIRST = "bf16-engine"  # the one that all checks of the whole server use
UNNAMED = f"uid-{triton.UNNAMED}"
SINGLE = {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
NO_GPU = ("none visible", "install NVIDIA's driver and container toolkit, so that `nvidia-smi` lists the GPU")
log = logging.getLogger(__name__)


def kinds(gpu: gpus.Gpu) -> list[tuple[str, str]]:
    """(precision, backend) that this GPU takes."""
    found = [("bf16", "engine"), ("bf16", "pytorch")]
    found += [("int8_wo", "engine"), ("int8_sq", "engine")] if gpu.has_int8_engine else []
    return found + ([("fp8", "engine"), ("fp8", "pytorch")] if gpu.has_fp8 else [])


def build(model: Path, out: Path, precision: str, backend: str) -> Iterator[ProbeResult]:
    """Build with our own builder and gate, then check what the engine says about itself."""
    argv = [sys.executable, "-m", "build_engine", "build", "--runtime", "tensorrt_llm", "--model", str(model)]
    argv += ["--precision", precision, "--backend", backend, "--context", CONTEXT, "--out", str(out)]
    shutil.rmtree(out, ignore_errors=True)  # of an earlier probe
    last = last_line(run(argv))
    built = (out / "engine.json").is_file()
    check = f"build {precision} {backend}"
    yield findings.judged(check, built, "built" if built else last, "the tool's output is in probe.log")
    if not built:
        return
    engine = engine_dir.read(out)
    if backend == "engine":
        yield labelled(out.name, readback.built(engine))
    yield labelled(out.name, readback.gate(engine, must_pass=precision == "bf16"))


def run(argv: Sequence[str], **environment: str) -> str:
    log.info("  %s", " ".join(argv))
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SECONDS,
                                env={**os.environ, **environment})  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    log.debug("%s\n%s", answer.stdout, answer.stderr)
    return answer.stdout + answer.stderr


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


def labelled(label: str, row: ProbeResult) -> ProbeResult:
    return ProbeResult(f"{label}: {row.check}", row.status, row.found, row.remedy)


def ask(engine: Path, part: str, label: str, **environment: str) -> Iterator[ProbeResult]:
    output = engine.parent / f"{engine.name}-{part}.json"
    output.unlink(missing_ok=True)
    module = "build_engine.tensorrt_llm.probe.behaviour"
    text = run([sys.executable, "-m", module, "--engine", str(engine), "--part", part, "--output", str(output)],
               **environment)  # fmt: skip
    rows = findings.read(output) if output.is_file() else []
    yield from (labelled(label, row) for row in rows)
    if not rows:
        remedy = "see probe.log; try TLLM_WORKER_USE_SINGLE_PROCESS=1"
        yield ProbeResult(f"{label}: {part}", "fail", last_line(text), remedy)


def probe(work: Path) -> Iterator[ProbeResult]:
    version, wanted = version_here("tensorrt_llm"), pinned("tensorrt_llm")
    remedy = f"use {container.image()}, which has {wanted}" if version else container.not_installed()
    yield findings.judged("version", version == wanted, version or "none", remedy)
    yield environment.packages(work)
    yield from environment.imports()
    yield from facts.examine()
    detected = gpus.detect()
    if not detected:
        yield ProbeResult("GPU", "fail", *NO_GPU)
        return
    before = environment.used_memory()
    model, other = work / "tiny-random", work / "tiny-random-2"
    checkpoint.write(checkpoint.SHAPES["synthetic"], model)
    checkpoint.write(checkpoint.SHAPES["synthetic"], other, seed=checkpoint.SEED + 1)
    for precision, backend in kinds(detected[0].gpu):
        out = work / f"{precision}-{backend}"
        yield from build(model, out, precision, backend)
        for part in ("answers", "scores") if (out / "engine.json").is_file() else ():
            yield from ask(out, part, out.name)
    if (work / FIRST / "engine.json").is_file():
        yield readback.gate_refuses(work / FIRST, other)
        yield from deaths(work / FIRST)
        yield from ask(work / FIRST, "answers", "single process", **SINGLE)
        yield from in_triton(work)
    yield environment.freed("GPU memory freed at the end", before, environment.used_memory())


def deaths(engine: Path) -> Iterator[ProbeResult]:
    for part in ("death-idle", "death-busy"):
        before = environment.used_memory()
        yield from ask(engine, part, engine.name)
        yield environment.freed(f"GPU memory freed after {part}", before, environment.used_memory())


def in_triton(work: Path) -> Iterator[ProbeResult]:
    readback.forget_gate(work / FIRST)
    yield from triton.bare(work / FIRST, work / "stub")
    yield from triton.bare(work / FIRST, work / "stub-single", settings=SINGLE)
    if os.getuid() == 0:
        yield from triton.bare(work / FIRST, work / UNNAMED, user=triton.UNNAMED)
    yield from triton.served(work / FIRST, work / "served")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python3 -m build_engine.tensorrt_llm.probe", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("probe"), metavar="DIR", help="default: %(default)s")
    out = parser.parse_args(argv).out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.DEBUG, filename=out / "probe.log", format="%(asctime)s %(message)s")
    found = probe(out) if container.inside() else from_container(out)
    rows = []
    for row in found:
        print(f"{row.status:8} {row.check}: {row.found}", flush=True)
        rows.append(row)
        findings.write(rows, out / "probe.json")
    findings.show(rows, Console())
    print(f"{out / 'probe.json'}: send us this file")
    return findings.exit_code(rows)


def from_container(out: Path) -> Iterator[ProbeResult]:
    """The probe in the pinned container, as this user; then one stub as a user that the image has no name for."""
    missing = [*host_faults()]
    yield from missing
    if missing:
        return
    in_container(container.image_command())
    inner = out / "probe.json"
    inner.unlink(missing_ok=True)
    inside = ["python3", "-m", "build_engine.tensorrt_llm.probe", "--out", str(out)]
    in_container(container.run_command(inside, [Mount(ROOT), Mount(out, writable=True)]))
    if not inner.is_file():
        raise BuildError(f"the container wrote no {inner}: its output is above")
    yield from findings.read(inner)
    engine, work = out / FIRST, out / UNNAMED
    if not (engine / "engine.json").is_file() or os.getuid() == 0:  # root has tried it inside
        return
    work.mkdir(exist_ok=True)
    work.chmod(0o777)
    inside = ["python3", "-m", "build_engine.tensorrt_llm.probe.triton", "--engine", str(engine), "--work", str(work)]
    mounts = [Mount(ROOT), Mount(out), Mount(work, writable=True)]
    in_container(container.run_command(inside, mounts, user=f"{triton.UNNAMED}:{triton.UNNAMED}"))
    rows = findings.read(work / "rows.json") if (work / "rows.json").is_file() else []
    lost = ProbeResult(f"LLM() in a Python stub, uid {triton.UNNAMED}", "fail", "no result", "its output is above")
    yield from rows or [lost]


def host_faults() -> Iterator[ProbeResult]:
    """What a host needs before a container can be started."""
    if not gpus.detect():
        yield ProbeResult("GPU", "fail", *NO_GPU)
    if problem := docker_problem():
        found, _, remedy = problem.partition(": ")
        yield ProbeResult("Docker", "fail", found, remedy)


def in_container(command: Sequence[str]) -> None:
    """Run it; its exit code says no more than the rows it wrote."""
    code = subprocess.run(command, check=False).returncode
    if code and command[1] == "build":
        raise BuildError(f"the image could not be built: `docker pull {pinned('tensorrt_llm', 'container')}` must work")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BuildError as error:
        sys.exit(f"error: {error}")
