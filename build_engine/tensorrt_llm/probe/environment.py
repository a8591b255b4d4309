"""The environment of TensorRT-LLM: installed packages, our imports, GPU memory that is freed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from build_engine.tensorrt_llm.probe.findings import ProbeResult, judged
from serving.host.container import PACKAGES

LEFT_MIB = 256  # contexts of other processes come and go; an engine that stays holds gigabytes


def packages(out: Path) -> ProbeResult:
    """``pip freeze`` -> ``freeze.txt`` beside probe.json, to compare reports with."""
    command = [sys.executable, "-m", "pip", "freeze", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (out / "freeze.txt").write_text(done.stdout, encoding="utf-8")
    count = len(done.stdout.splitlines())
    return judged("pip freeze", count > 0, f"{count} packages, in freeze.txt", "send us its output", breaks=False)


def imports(modules: Mapping[str, str] = PACKAGES) -> Iterator[ProbeResult]:
    """Everything the gateway and the clients import, in this Python."""
    failed = [(name, module, reason) for name, module in modules.items() if (reason := _import_error(module))]
    for requirement, module, reason in failed:
        remedy = f"the image lacks a working {requirement}: send freeze.txt"
        yield ProbeResult(f"import {module}", "fail", reason, remedy)
    yield ProbeResult("imports", "pass", f"{len(modules) - len(failed)} of {len(modules)} modules import")


def _import_error(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  # whatever a package does while it is imported, it is the finding
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return ""


def used_memory() -> int | None:
    """MiB in use on the first GPU; ``None`` when nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = done.stdout.strip().partition("\n")[0]
    return int(first) if first.isdecimal() else None


def freed(check: str, before: int | None, after: int | None) -> ProbeResult:
    """Whether the probe's engines freed their memory when their processes ended."""
    if before is None or after is None:
        return ProbeResult(check, "differs", "nvidia-smi does not report the memory in use")
    found = f"{before} MiB before the engines, {after} MiB after them"
    remedy = "a process still holds the GPU: see nvidia-smi, and send us probe.log"
    return judged(check, after - before <= LEFT_MIB, found, remedy)
