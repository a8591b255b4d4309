"""``docker run`` command lines for NVIDIA's Triton + TensorRT-LLM image: pure functions, nothing is started here.

Paths are mounted at their own names, so a command reads the same inside and outside. The image is the one pinned in
versions.toml plus the gateway's packages (``Dockerfile.tensorrt_llm``). The container runs as the calling user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.authority import authority
from contract.paths import ROOT
from contract.versions import pinned

SHM_GIB = 8  # Triton's stubs, NCCL and the MPI workers all use /dev/shm; Docker's default is 64 MiB
INSIDE = Path("/app/examples/quantization/quantize.py")  # NVIDIA's image has it, under Docker or Kubernetes alike
PASSED_THROUGH = ("HF_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "CUDA_VISIBLE_DEVICES")
PASSED_PREFIX = "TLLM_"  # TensorRT-LLM's own, e.g. TLLM_WORKER_USE_SINGLE_PROCESS=1 where MPI cannot spawn a worker
# The gateway's settings: without them, a gateway with keys here would be open in there. The launcher sets the others.
GATEWAY_PREFIX = "GATEWAY_"
SET_BY_LAUNCHER = ("GATEWAY_PORT", "GATEWAY_RUN_DIR", "GATEWAY_READINESS_FILE")
# What the gateway and the clients import and a Triton image may lack: requirement -> the module that must import.
# versions.toml has the lowest version of each; above it, whatever fits the image. Without these floors pip goes back to
# tritonclient 2.41 when the image has protobuf 7.
PACKAGES = {
    "starlette": "starlette",
    "uvicorn[standard]": "uvicorn",
    "httpx": "httpx",
    "pydantic": "pydantic",
    "prometheus_client": "prometheus_client",
    "orjson": "orjson",
    "psutil": "psutil",
    "rich": "rich",
    "huggingface_hub": "huggingface_hub",
    "tokenizers": "tokenizers",
    "tiktoken": "tiktoken",
    "tritonclient[grpc]": "tritonclient.grpc",
}


@dataclass(frozen=True, slots=True)
class Mount:
    path: Path
    writable: bool = False

    def argument(self) -> str:
        return f"{self.path}:{self.path}" + ("" if self.writable else ":ro")


def image() -> str:
    return f"qwen-triton-trtllm:{pinned('tensorrt_llm')}"


def image_command() -> list[str]:
    """Builds ``image()`` once; a second run answers from Docker's cache."""
    base = pinned("tensorrt_llm", "container")
    packages = " ".join(f"{name}>={pinned('tensorrt_llm_image', name.split('[')[0])}" for name in PACKAGES)
    imports = ", ".join(PACKAGES.values())
    dockerfile = ROOT / "build_engine" / "Dockerfile.tensorrt_llm"
    arguments = ["--build-arg", f"BASE={base}", "--build-arg", f"PACKAGES={packages}"]
    arguments += ["--build-arg", f"IMPORTS={imports}"]
    return ["docker", "build", "--tag", image(), *arguments, "--file", str(dockerfile), str(dockerfile.parent)]


def not_installed() -> str:
    """What to do when ``import tensorrt_llm`` finds nothing, in one line instead of the twenty of PyPI's stub."""
    package = f"tensorrt-llm=={pinned('tensorrt_llm')}"
    return (
        f"TensorRT-LLM is not installed in this Python: run inside {pinned('tensorrt_llm', 'container')}, or "
        f"`pip install {package} --extra-index-url https://pypi.nvidia.com` (PyPI has only a stub, which installs "
        f"nothing)"
    )


def inside() -> bool:
    """Is this process in the TensorRT-LLM container (so that commands run directly)?"""
    return INSIDE.exists()


def run_command(
    argv: Sequence[str],
    mounts: Sequence[Mount],
    *,
    environment: Mapping[str, str] | None = None,
    publish: Sequence[str] = (),
    name: str = "",
    passed: Sequence[str] = (),
    user: str = "",
) -> list[str]:
    """``docker run`` of ``argv`` as ``user`` (``uid:gid``; default: the caller). ``publish`` entries are Docker's
    ``HOST:PORT:PORT``. ``passed`` variables keep their value from here without appearing on the command line.

    ``--init`` reaps the MPI workers and ends them with the container; without the ulimits, pinned memory and deep C++
    stacks fail. ``USER`` must be set because the calling user's id has no name inside.
    """
    settings = {"HOME": "/tmp", "USER": "qwen", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    settings.update(environment or {})
    command = ["docker", "run", "--rm", "--init", "--gpus", "all", f"--shm-size={SHM_GIB}g"]
    command += [
        "--ulimit",
        "memlock=-1",
        "--ulimit",
        "stack=67108864",
        "--user",
        user or f"{os.getuid()}:{os.getgid()}",
    ]
    command += ["--name", name] if name else []
    command += [part for entry in publish for part in ("--publish", entry)]
    command += [part for mount in _unique(mounts) for part in ("--volume", mount.argument())]
    command += [part for key, value in settings.items() for part in ("--env", f"{key}={value}")]
    passed = [*passed, *(key for key in PASSED_THROUGH if key in os.environ)]
    passed += sorted(key for key in os.environ if key.startswith(PASSED_PREFIX))
    command += [part for key in passed for part in ("--env", key)]
    return [*command, "--workdir", "/tmp", image(), *argv]  # trtllm-build writes a cache to its working directory


def serve_command(
    engine: Path,
    addresses: Mapping[str, tuple[str, int]],
    *,
    arguments: Sequence[str] = (),
) -> list[str]:
    """``python3 -m serving`` in the container, for the launcher.

    ``addresses`` maps ``HTTP_PORT``, ``GRPC_PORT``, ``METRICS_PORT`` and ``GATEWAY_PORT`` (left out: no gateway) to the
    host address and the port where it is published; the port is the same inside. There, the servers listen on all
    addresses, which only Docker's bridge can reach. Repository and engine are mounted read-only.
    """
    options = ["--engine", str(engine), "--triton-host", "0.0.0.0"]
    options += ["--host", "0.0.0.0"] if "GATEWAY_PORT" in addresses else ["--gateway-port", "0"]
    for variable, (_, port) in addresses.items():
        options += [f"--{variable.lower().replace('_', '-')}", str(port)]
    gateway = sorted(key for key in os.environ if key.startswith(GATEWAY_PREFIX) and key not in SET_BY_LAUNCHER)
    environment, keys = {}, []
    if keys_file := os.environ.get("GATEWAY_API_KEYS_FILE"):
        path = Path(keys_file).absolute()  # a relative path refers to this directory, not to the container's
        environment, keys = {"GATEWAY_API_KEYS_FILE": str(path)}, [Mount(path)]
        gateway.remove("GATEWAY_API_KEYS_FILE")
    return run_command(
        ["python3", "-m", "serving", *options, *arguments],
        [Mount(ROOT), Mount(engine.resolve()), Mount(engine.absolute()), *keys],
        passed=gateway,
        environment=environment,
        publish=[f"{authority(host, port)}:{port}" for host, port in addresses.values()],
        name=f"qwen-triton-{addresses['HTTP_PORT'][1]}" if "HTTP_PORT" in addresses else "",
    )


def _unique(mounts: Sequence[Mount]) -> list[Mount]:
    """One mount per path, writable if any asks for it, parents first."""
    merged: dict[Path, bool] = {}
    for mount in mounts:
        merged[mount.path] = merged.get(mount.path, False) or mount.writable
    return [Mount(path, writable) for path, writable in sorted(merged.items())]
