"""Arguments of ``LLM`` and the capabilities they give, per backend and version. Pure, except for reading config.json.

The arguments class forbids unknown fields, so everything is built from names that the loaded version declares. Only
names on the list of known removals may be dropped; any other missing name is an error.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from contract.model_shape import ModelShape
from serving.runtimes.base import GUIDES, RuntimeOptions
from serving.runtimes.tensorrt_llm.env import Package

REMOVED_IN_14 = frozenset({"sampler_type"})
TRTLLM_SAMPLER = "TRTLLMSampler"
PENALTIES = frozenset({"min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "bad_words"})
LOGPROBS = frozenset({"logprobs", "top_logprobs"})


@dataclass(frozen=True, slots=True)
class Surface:
    """What the loaded TensorRT-LLM declares, so that the same code serves 1.2.1 and 1.4.

    ``fields`` of the arguments class, ``scheduler`` of SchedulerConfig, ``generate`` of ``generate_async``."""

    version: str
    fields: frozenset[str]
    scheduler: frozenset[str]
    generate: frozenset[str]

    @property
    def has_priority(self) -> bool:
        return "priority" in self.generate and "waiting_queue_policy" in self.scheduler

    @property
    def full_sampler(self) -> bool:
        """Since the release that dropped ``sampler_type``, PyTorch's own sampler honours every field."""
        return "sampler_type" not in self.fields


@dataclass(frozen=True, slots=True)
class EngineFile:
    """The limits in an engine's own ``config.json``; ``version`` is the TensorRT-LLM that built it."""

    version: str
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    max_input_len: int
    tensor_parallel: int


def read_engine_file(directory: Path) -> EngineFile:
    """Raises ``EngineDirectoryError`` when ``directory`` holds no readable engine description."""
    path = directory / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        build, mapping = data["build_config"], data["pretrained_config"]["mapping"]
        return EngineFile(
            version=str(data["version"]),
            max_batch_size=int(build["max_batch_size"]),
            max_num_tokens=int(build["max_num_tokens"]),
            max_seq_len=int(build["max_seq_len"]),
            max_input_len=int(build["max_input_len"]),
            tensor_parallel=int(mapping.get("tp_size", 1)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineDirectoryError(
            f"{path} is not a TensorRT engine description ({type(error).__name__}: {error}): rebuild with `make engine`"
        ) from error


def capabilities(backend: str, surface: Surface, scoring: bool) -> frozenset[str]:
    """The engine's C++ decoder honours all but log probabilities, which need logits gathered (and crash with cancelled
    streams: docs/tensorrt_llm_facts.md). The default PyTorch sampler of 1.2.1 ignores penalties, min_p, bad words and
    the seed silently, so serving uses its ``TRTLLMSampler``, which honours them but gives the sampled token's log
    probability only; the accuracy gate (``scoring``) needs the others and uses the default one. Guides should mask the
    logits before either sampler sees them; ``guide_check`` tries it at load. ``embedding_bias`` (a number for every
    entry of the vocabulary) could carry a logit bias; it is not used yet."""
    if backend == "engine":
        found = PENALTIES | GUIDES | {"min_tokens"} | (LOGPROBS if scoring else frozenset())
    elif surface.full_sampler:
        found = PENALTIES | GUIDES | LOGPROBS | {"min_tokens"}
    elif scoring:
        found = LOGPROBS | {"min_tokens"}
    else:
        found = PENALTIES | GUIDES | {"logprobs", "min_tokens"}
    found |= {"resume_ids"}  # as part of the prompt
    found |= {"priority"} if surface.has_priority else set()
    return frozenset(found | ({"cache_salt"} & surface.generate))


def llm_arguments(
    package: Package, engine: EngineInfo, options: RuntimeOptions, surface: Surface, scoring: bool
) -> dict[str, Any]:
    """Keywords for the LLM class of the engine's backend."""
    parallel = engine.gpu.tensor_parallel if engine.gpu else 1
    arguments = {
        "tensor_parallel_size": parallel,
        "trust_remote_code": False,
        "kv_cache_config": package.llm_args.KvCacheConfig(**kv_arguments(engine, options)),
        "enable_chunked_prefill": engine.kv_dtype != "int8",  # INT8 KV turns paged context FMHA off
        **(
            _engine(package, engine, options)
            if engine.runtime.backend == "engine"
            else _pytorch(package, engine, options)
        ),
    }
    if scoring and engine.runtime.backend == "engine":
        arguments["gather_generation_logits"] = True
    if not scoring and engine.runtime.backend == "pytorch":
        arguments["sampler_type"] = TRTLLM_SAMPLER
    if surface.has_priority:
        arguments["scheduler_config"] = package.llm_args.SchedulerConfig(waiting_queue_policy="priority")
    if capabilities(engine.runtime.backend, surface, scoring) & GUIDES:  # a guide needs the tokenizer
        arguments |= {"tokenizer": str(engine.path), "guided_decoding_backend": "xgrammar"}
    else:
        arguments["skip_tokenizer_init"] = True
    return known(arguments, surface.fields)


def known(arguments: dict[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """``arguments`` without the known removals. Raises ``EngineDirectoryError`` for any other missing name."""
    unknown = set(arguments) - set(fields)
    if unknown - REMOVED_IN_14:
        raise EngineDirectoryError(
            f"engine: this TensorRT-LLM has no setting {', '.join(sorted(unknown - REMOVED_IN_14))}: use the version "
            f"pinned in versions.toml"
        )
    return {name: value for name, value in arguments.items() if name not in unknown}


def _engine(package: Package, engine: EngineInfo, options: RuntimeOptions) -> dict[str, Any]:
    """An engine carries its limits: a larger batch is refused by the C++ side, a smaller step size would shrink it.
    CUDA graphs save the launches of a small batch's step, one graph per batch size."""
    directory = engine.path / "engine"
    built = read_engine_file(directory)
    batch = min(options.max_streams, built.max_batch_size)
    found = {"model": str(directory), "max_batch_size": batch, "max_num_tokens": built.max_num_tokens}
    if engine.runtime.profile == "latency":
        knobs = package.llm_args.ExtendedRuntimePerfKnobConfig(cuda_graph_mode=True, cuda_graph_cache_size=batch)
        found["extended_runtime_perf_knob_config"] = knobs
    return found


def _pytorch(package: Package, engine: EngineInfo, options: RuntimeOptions) -> dict[str, Any]:
    """CUDA graphs for every batch up to ours (padded to the next captured size), and the overlap scheduler, which
    prepares a step while the one before it runs. Both go with ``TRTLLMSampler``, chunked prefill and guides
    (docs/tensorrt_llm_facts.md, "LLM API"); they are set explicitly so that a changed default cannot turn them off."""
    batch = min(options.max_streams, engine.limits.max_batch_size)
    return {
        "model": str(engine.path / "checkpoint"),
        "max_batch_size": batch,
        "max_num_tokens": engine.limits.max_num_tokens,
        "max_seq_len": engine.limits.max_seq_len,
        "cuda_graph_config": package.llm_args.CudaGraphConfig(max_batch_size=batch, enable_padding=True),
        "disable_overlap_scheduler": False,
        "enable_iter_perf_stats": True,
    }


def kv_arguments(engine: EngineInfo, options: RuntimeOptions) -> dict[str, Any]:
    """``free_gpu_memory_fraction`` is a share of what is free after loading. An engine's KV type is built in."""
    arguments: dict[str, Any] = {"free_gpu_memory_fraction": options.gpu_memory_fraction}
    if options.kv_cache_bytes is not None:
        arguments["max_tokens"] = max(1, options.kv_cache_bytes // kv_bytes_per_token(engine))
    if engine.kv_dtype == "int8":
        arguments["enable_block_reuse"] = False
    if engine.kv_dtype == "fp8" and engine.runtime.backend != "engine":
        arguments["dtype"] = "fp8"
    return arguments


def kv_bytes_per_token(engine: EngineInfo) -> int:
    path = engine.path / "config.json"
    try:
        return ModelShape.of(json.loads(path.read_text(encoding="utf-8"))).kv_bytes_per_token(engine.kv_dtype)
    except (OSError, ValueError) as error:
        raise EngineDirectoryError(f"{path} is damaged ({error}): rebuild with `make engine`") from error


def end_ids(directory: Path) -> tuple[int, ...]:
    """The model's end ids, of which TensorRT-LLM needs at least one."""
    ids = engine_dir.end_ids(directory)
    if not ids:
        raise EngineDirectoryError(f"{directory}: no file names an eos_token_id: rebuild with `make engine`")
    return ids
