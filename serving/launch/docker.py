"""TensorRT-LLM on a Docker host: `make serve` is then `docker run` of the same launcher in NVIDIA's container."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from contract.engine_dir import EngineInfo
from serving.host import container, machine
from serving.launch.config import OPTIONS, Config, LaunchError


def require_fit(engine: EngineInfo) -> None:
    """Raise ``LaunchError`` when ``engine`` cannot run here, before a minute is spent loading it."""
    problems = machine.check(engine)
    for problem in problems[:-1]:
        print(f"serve: {problem}", file=sys.stderr)
    if problems:
        raise LaunchError(problems[-1])


def needed(engine: EngineInfo) -> bool:
    """The engine is TensorRT-LLM's, and neither this machine is its container nor this Python has TensorRT-LLM."""
    here = container.inside() or importlib.util.find_spec("tensorrt_llm") is not None
    return engine.runtime.name == "tensorrt_llm" and not here


def command(config: Config) -> list[str]:
    """``docker run`` of this launcher with the same options."""
    if config.guard:
        raise LaunchError(
            "TRITON_KEY_FILE and TRITON_TLS_… are not for a server in NVIDIA's container; `make cluster REPLICAS=1` "
            "puts the same gRPC proxy in front of it"
        )
    arguments = ["--lame-duck", str(config.lame_duck), "--drain", str(config.drain)]
    arguments += ["--max-restarts", str(config.max_restarts)]
    arguments += [f"{option.flag}={config.environment[option.variable]}" for option in OPTIONS]
    addresses = {name: config.address(name)[1:] for name in config.ports}
    return container.serve_command(config.engine, addresses, arguments=arguments)


def replace_process(config: Config) -> None:
    """Become ``docker run``: signals reach the container, its exit code becomes ours."""
    if shutil.which("docker") is None:
        raise LaunchError("this engine needs the TensorRT-LLM container: install Docker, or serve inside the container")
    argv = command(config)
    os.execvp(argv[0], argv)
