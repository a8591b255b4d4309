"""Who is measured, and where each one runs: peers in environments of their own, made when they are not there yet."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engine.openvino import build as openvino_build
from build_engine.smollm2 import cached as smollm2_file
from build_engine.source import locate, open_source
from build_engine.spec import SMOLLM2, BuildSpec
from build_engine.staging import cache_directory
from contract.paths import ROOT
from contract.versions import pinned, read_toml
from loadtest.bench.cpu import gguf
from loadtest.bench.cpu.llama import LIBRARIES

ORACLE, GENAI = ROOT / ".venv-oracle", ROOT / ".venv-genai"


class Missing(Exception):
    """A peer cannot be installed here: the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Run ``python -m module model``, with ``environment`` added to this process's."""

    name: str
    python: str
    module: str
    model: Path
    environment: Mapping[str, str]


def ours(spec: BuildSpec) -> Subject:
    return Subject(f"ours-{spec.precision}", sys.executable, "served", openvino_build.build(spec), {})


def llama(spec: BuildSpec) -> Subject:
    """llama.cpp out of node-llama-cpp's prebuilt package, and the model at as many bits as ours has."""
    version = pinned("llama_cpp", "node_llama_cpp")
    home = cache_directory() / "bench" / f"node-llama-cpp-{version}"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise Missing(f"no prebuilt library is known for {platform.system()} {platform.machine()}")
    package = "@node-llama-cpp/linux-" + {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
    if not (home / "node_modules" / package).is_dir():
        if not shutil.which("npm"):
            raise Missing("npm is missing (Debian: apt-get install npm)")
        home.mkdir(parents=True, exist_ok=True)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _install(["npm", "install", *quiet, "--prefix", str(home), f"{package}@{version}"])
    [libraries] = (home / "node_modules" / package / "bins").iterdir()
    kind = gguf.KINDS[spec.precision].lower()
    file = spec.out.parent / f"{spec.out.name.removesuffix(f'-{spec.precision}')}-{kind}.gguf"
    if not file.is_file():
        partial = file.with_suffix(".partial")
        gguf.write(open_source(spec), partial, spec.precision)
        partial.replace(file)
    return Subject(f"llama.cpp-{kind}", sys.executable, "llama", file, {LIBRARIES: str(libraries)})


def genai(spec: BuildSpec) -> Subject:
    """openvino-genai on our engine directory."""
    [requirement] = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]["genai"]
    ready = GENAI / ".ready"
    if not ready.is_file() or ready.read_text() != requirement:
        _install([sys.executable, "-m", "venv", "--clear", str(GENAI)])
        numpy = subprocess.check_output([sys.executable, "-c", "import numpy; print(numpy.__version__)"], text=True)
        _install([str(GENAI / "bin/python"), "-m", "pip", "install", "--quiet", requirement, f"numpy=={numpy.strip()}"])
        ready.write_text(requirement)
    return Subject(
        f"openvino-genai-{spec.precision}", str(GENAI / "bin/python"), "genai", openvino_build.build(spec), {}
    )


def huggingface(spec: BuildSpec) -> Subject:
    if not (ORACLE / ".ready").is_file():
        _install(["make", "--no-print-directory", "setup-oracle"])
    model = smollm2_file() if spec.model == SMOLLM2 else Path(spec.model) if spec.is_gguf else locate(spec)
    return Subject("transformers-bf16", str(ORACLE / "bin/python"), "huggingface", model, {})


PEERS: Mapping[str, Callable[[BuildSpec], Subject]] = {
    "llama.cpp": llama, "openvino-genai": genai, "transformers": huggingface,
}  # fmt: skip


def _install(command: list[str]) -> None:
    print(f"installing: {' '.join(command)}", flush=True)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), check=False)
    except OSError as error:
        raise Missing(str(error)) from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Missing(f"`{' '.join(command[:6])} …` fails: {lines[-1] if lines else done.returncode}")
