"""Checks whether an engine fits this machine: one line per problem, with its remedy. The launcher does so at start."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence

from contract import gpus as gpu_table
from contract.engine_dir import EngineInfo
from contract.gpus import DetectedGpu
from contract.model_shape import GIB
from contract.versions import pinned, version_tuple

REBUILD = "rebuild it here with `make engine`"
GPU_RUNTIMES = ("tensorrt_llm", "vllm")


def check(engine: EngineInfo, *, gpus: Sequence[DetectedGpu] | None = None, installed: str | None = None) -> list[str]:
    """Problems that would make the engine fail to load or answer wrongly; empty when it fits.

    ``gpus`` and ``installed`` (the runtime's version) are looked up when not given. CPU runtimes always fit.
    """
    problems = [*_accuracy(engine)]
    if engine.runtime.name in GPU_RUNTIMES:
        found = gpu_table.detect() if gpus is None else gpus
        version = installed_version(engine.runtime.name) if installed is None else installed
        problems += [*_version(engine, version), *_gpus(engine, found)]
    return problems


def installed_version(runtime: str) -> str:
    """The runtime's version in this Python; on a Docker host, where it is not installed, the pinned container's."""
    return version_here(runtime) or pinned(runtime)


def version_here(runtime: str) -> str:
    """The runtime's version in this Python; empty when it is not installed."""
    try:
        return importlib.metadata.version(runtime)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _accuracy(engine: EngineInfo) -> Iterator[str]:
    passed = (engine.accuracy or {}).get("passed")
    if engine.kv_dtype in ("fp8", "int8") and engine.runtime.name in GPU_RUNTIMES and passed is not True:
        yield (
            f"engine {engine.path} has a {engine.kv_dtype} KV cache, which is known to break Qwen2.5, and no passed "
            f"accuracy gate: run `make verify ENGINE={engine.path}` or rebuild with KV=bf16"
        )
    elif passed is False:
        yield f"engine {engine.path} failed its accuracy gate: see engine.json, rebuild with another PRECISION"


def _version(engine: EngineInfo, installed: str) -> Iterator[str]:
    built, name = engine.runtime.version, engine.runtime.name
    if engine.runtime.backend != "engine" or built == installed:
        return
    if version_tuple(installed) >= (1, 3):
        yield f"{name} {installed} no longer loads TensorRT engines: use the pinned container or BACKEND=pytorch"
    else:
        yield f"engine was built by {name} {built}, this is {installed}; they are not interchangeable: {REBUILD}"


def _gpus(engine: EngineInfo, found: Sequence[DetectedGpu]) -> Iterator[str]:
    if not found:
        yield (
            f"engine {engine.path} needs an NVIDIA GPU and none is visible (nvidia-smi): serve it on a GPU host, or "
            f"build a CPU engine with `make engine RUNTIME=openvino`"
        )
        return
    built, here = engine.gpu, found[0].gpu
    if built is None:
        return
    if engine.runtime.backend == "engine" and built.sm != here.sm:
        yield f"engine was built for SM{built.sm} ({built.name}), this GPU is SM{here.sm} ({here.name}): {REBUILD}"
    elif engine.runtime.name == "tensorrt_llm" and engine.precision == "fp8" and not here.has_fp8:
        yield f"FP8 needs SM89 or newer, this GPU is SM{here.sm} ({here.name}): {REBUILD} (PRECISION=int8_sq)"
    if built.tensor_parallel > len(found):
        yield f"engine needs {built.tensor_parallel} GPUs (TP), {len(found)} visible: {REBUILD} with TP={len(found)}"
    yield from _memory(engine, found[: max(1, built.tensor_parallel)])


def _memory(engine: EngineInfo, found: Sequence[DetectedGpu]) -> Iterator[str]:
    each = sum(info.size for info in engine.files.values()) / len(found)
    smallest = min(item.gpu.memory_mib for item in found) * 1024**2
    if each > smallest * 0.95:
        yield f"engine needs {each / GIB:.1f} GiB per GPU, the GPU has {smallest / GIB:.1f}: use PRECISION=fp8 or TP=2"
