"""Prepares a Triton stub for ``import tensorrt_llm``, which nothing here imports at module level.

Triton may have been started under ``mpirun`` (NVIDIA's launch script does), and a stub that inherits those variables
would join that MPI world instead of spawning workers of its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import EngineDirectoryError
from serving.host import container

# As in NVIDIA's own model.py of the LLM API (docs/tensorrt_llm_facts.md, "Inside a Triton stub").
MPI_VARIABLES = frozenset(
    [f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK", "NODE_RANK")]
    + ["OMPI_UNIVERSE_SIZE", "OMPI_FIRST_RANKS", "OMPI_APP_CTX_NUM_PROCS"]
    + [
        f"PMIX_{name}"
        for name in (
            "RANK", "NAMESPACE", "SERVER_URI", "SERVER_URI2", "SERVER_URI21", "SERVER_URI3", "SERVER_TMPDIR",
            "SYSTEM_TMPDIR", "SECURITY_MODE", "GDS_MODULE", "BFROPS_MODULE", "PTL_MODULE", "VERSION", "HOSTNAME",
        )
    ]
    + [f"PMI_{name}" for name in ("RANK", "SIZE", "FD", "SPAWNED", "APPNUM")]
)  # fmt: skip
MPI_PREFIXES = ("OMPI_MCA_orte_", "ORTE_")
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRTLLM_NO_USAGE_STATS": "1",  # 1.4 reports usage by default
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # MPI refuses to spawn workers in a container run as root
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def mpi_names(environment: Mapping[str, str]) -> list[str]:
    """The variables of an MPI job among ``environment``."""
    return sorted(name for name in environment if name in MPI_VARIABLES or name.startswith(MPI_PREFIXES))


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Scrub the MPI job, set what TensorRT-LLM reads, and make sure children start from a real interpreter.

    A stub embeds Python in a C++ program, so ``sys.executable`` may be empty; MPI's spawn and multiprocessing use it.
    """
    for name in mpi_names(environment):
        del environment[name]
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)
    if not sys.executable or not Path(sys.executable).name.startswith("python"):
        python = shutil.which("python3")
        if python is None:
            raise EngineDirectoryError("engine: no python3 on PATH, TensorRT-LLM cannot start its workers: fix PATH")
        sys.executable = python
    multiprocessing.set_executable(sys.executable)
    multiprocessing.set_start_method("spawn", force=True)  # CUDA does not survive a fork


@dataclass(frozen=True, slots=True)
class Package:
    """The parts of TensorRT-LLM used here, each from the module that defines it."""

    version: str
    llm_class: Any
    llm_args: Any  # module: TorchLlmArgs, TrtLlmArgs, KvCacheConfig, SchedulerConfig, CudaGraphConfig
    sampling_params: Any  # module: SamplingParams, GuidedDecodingParams
    request_error: type[Exception]  # this request only; everything else is the executor's end


def load(backend: str) -> Package:
    """Import TensorRT-LLM for ``backend``. Call ``prepare`` first.

    An engine directory needs ``_tensorrt_engine.LLM``: ``tensorrt_llm.LLM(backend="tensorrt")`` asserts on one.
    """
    try:
        root: Any = importlib.import_module("tensorrt_llm")
        llm_args = importlib.import_module("tensorrt_llm.llmapi.llm_args")
        sampling_params = importlib.import_module("tensorrt_llm.sampling_params")
        request_error = importlib.import_module("tensorrt_llm.executor.utils").RequestError
    except ImportError as error:
        raise EngineDirectoryError(f"engine: {container.not_installed()} ({error})") from error
    version = str(root.__version__)
    llm_class = _engine_class(version) if backend == "engine" else root.LLM
    return Package(version, llm_class, llm_args, sampling_params, request_error)


def _engine_class(version: str) -> Any:
    try:
        return importlib.import_module("tensorrt_llm._tensorrt_engine").LLM
    except ImportError as error:
        raise EngineDirectoryError(
            f"engine: TensorRT-LLM {version} no longer loads engines: use the container pinned in versions.toml, or "
            f"rebuild with BACKEND=pytorch"
        ) from error
