"""The engine to serve: check the one that is there, make the default one when none is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from contract.paths import ROOT
from serving.launch import child
from serving.launch.config import DEFAULT_ENGINE, SIMULATED_ENGINE, Config, LaunchError

NOISE = (
    "this engine has random weights: its text is noise. For real text: "
    "make engine MODEL=Qwen/Qwen2.5-7B-Instruct (or a local directory), then make serve"
)


def prepare(config: Config) -> EngineInfo:
    """Read ``engine.json``; build the synthetic default or the simulated engine first if it is missing."""
    if not (config.engine / "engine.json").exists():
        if config.engine == SIMULATED_ENGINE:
            _build(["simulated", "--out", str(config.engine)])
        elif config.engine == DEFAULT_ENGINE:
            _build_default(config)
    try:
        return engine_dir.read(config.engine)
    except EngineDirectoryError as error:
        raise LaunchError(str(error)) from None


def _build_default(config: Config) -> None:
    if shutil.which("nvidia-smi"):
        raise LaunchError(f"no engine at {config.engine}: this machine has an NVIDIA GPU, run `make engine` first")
    print("no engine yet: making a small synthetic one for the CPU (no download)", flush=True)
    _build(["build", "--model", "synthetic", "--precision", "int8", "--out", str(config.engine)])


def _build(arguments: list[str]) -> None:
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "build_engine", *arguments]
    if subprocess.run(command, env=env, cwd=ROOT, check=False, preexec_fn=child.die_with_parent).returncode:
        raise LaunchError("the engine could not be built (see above)")
