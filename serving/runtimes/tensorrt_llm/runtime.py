"""TensorRT-LLM, engine or PyTorch backend, through its LLM API. Written for 1.2.1 and prepared for 1.4.

We have not run it on a GPU: the tests drive it against a stand-in with the published signatures.
"""

from __future__ import annotations

import dataclasses
import inspect

from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from serving.runtimes.base import GUIDES, OnDeath, OnStep, RuntimeOptions
from serving.runtimes.tensorrt_llm import args as tensorrt_llm_args
from serving.runtimes.tensorrt_llm import env as tensorrt_llm_env
from serving.runtimes.tensorrt_llm.args import Surface
from serving.runtimes.tensorrt_llm.core import TensorRtLlm
from serving.runtimes.tensorrt_llm.env import Package
from serving.runtimes.tensorrt_llm.guide_check import keeps_to_guides
from serving.runtimes.tensorrt_llm.loaded import LoadedLlm, started


def create(
    engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath, *, scoring: bool = False
) -> TensorRtLlm:
    """Load the engine; blocks for minutes. ``scoring`` is for the accuracy gate only, which needs the most likely
    tokens and cancels nothing: an engine then gathers logits (which crashes together with cancelled streams) and the
    PyTorch backend uses its default sampler (docs/tensorrt_llm_facts.md)."""
    tensorrt_llm_env.prepare()
    backend = engine.runtime.backend or "engine"
    package = tensorrt_llm_env.load(backend)
    surface = read_surface(package, backend)
    if backend == "engine":
        _require_version(engine, surface.version)
    arguments = tensorrt_llm_args.llm_arguments(package, engine, options, surface, scoring)
    llm, children = started(lambda: package.llm_class(**arguments), engine)
    found = tensorrt_llm_args.capabilities(backend, surface, scoring)
    loaded = LoadedLlm(package, llm, surface, found, int(arguments["max_batch_size"]), children)
    inferred = backend == "pytorch" and not surface.full_sampler and found & GUIDES
    if inferred and not keeps_to_guides(loaded, engine):
        loaded = dataclasses.replace(loaded, capabilities=found - GUIDES)
    return TensorRtLlm(loaded, engine, on_step, on_death)


def read_surface(package: Package, backend: str) -> Surface:
    """The names that this installation declares."""
    arguments = package.llm_args.TrtLlmArgs if backend == "engine" else package.llm_args.TorchLlmArgs
    generate = inspect.signature(package.llm_class.generate_async).parameters
    scheduler = package.llm_args.SchedulerConfig.model_fields
    return Surface(package.version, frozenset(arguments.model_fields), frozenset(scheduler), frozenset(generate))


def _require_version(engine: EngineInfo, installed: str) -> None:
    built = tensorrt_llm_args.read_engine_file(engine.path / "engine")
    if built.version != installed:
        raise EngineDirectoryError(
            f"engine: {engine.path} was built by TensorRT-LLM {built.version}, this is {installed}: use the container "
            f"pinned in versions.toml or rebuild with `make engine`"
        )
