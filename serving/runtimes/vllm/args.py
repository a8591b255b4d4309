"""Arguments for vLLM: the engine's from ``engine.json``, the sampling parameters from ``Sampling``.

Three of vLLM's defaults do not suit us, so these arguments are always given: ``max_num_seqs`` and
``max_num_batched_tokens`` would depend on the usage context (128 / 2048 in process), ``max_tokens`` would be 16, and
the end ids of generation_config.json would stop every request without ``ignore_eos``; our end ids are all in
``Sampling.stop_token_ids``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from contract.sampling import Guide, Sampling
from serving import structural_tag
from serving.json_schema import prepared
from serving.runtimes.base import GUIDES, RuntimeOptions

HONOURED = GUIDES | {
    "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "min_tokens", "bad_words",
    "logit_bias", "allowed_token_ids", "logprobs", "top_logprobs", "return_prompt_log_probs", "priority", "cache_salt",
    "resume_ids",
}  # fmt: skip
# vLLM refuses them beside speculative decoding (``SamplingParams._validate_spec_decode``, 0.24 to 0.33).
NOT_SPECULATED = frozenset({"min_p", "logit_bias"})
# Arguments that ``RuntimeInfo.options`` may not set, because the rest of the server relies on them.
OURS = frozenset({
    "model", "tokenizer", "load_format", "max_model_len", "max_num_seqs", "max_logprobs", "tensor_parallel_size",
    "kv_cache_memory_bytes", "gpu_memory_utilization", "scheduling_policy", "enable_lora", "max_loras",
    "max_lora_rank", "seed",
})  # fmt: skip
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm.config.lora.MaxLoRARanks
MAX_LOGPROBS = 20
# With a KV cache in bytes the fraction has no effect, but vLLM still refuses to start when less than it is free.
NO_FRACTION = 0.02
# In a step that holds a prompt, the CPU takes longer to launch the kernels one by one than the GPU to run them, and
# vLLM's own graphs end at 512 tokens, which one prompt of 512 among running streams exceeds. Graphs up to 2,048 on an
# H100 at 40 requests/s: TTFT p50 57 -> 37 ms, TPOT 13.1 -> 9.4, for 0.24 GiB and a second more at start
# (docs/benchmarks.md). A step uses the next larger graph; from 128 tokens on at most 6 % of it is padding.
GRAPH_SIZES = (1, 2, 4, *range(8, 256, 8), *range(256, 512, 16), *range(512, 1024, 32), *range(1024, 2049, 64))
GRAPH_OPTIONS = frozenset({
    "compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "enforce_eager"
})  # fmt: skip
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp8": "bfloat16", "int8": "bfloat16", "int4": "bfloat16"}


def engine_args(engine: EngineInfo, options: RuntimeOptions) -> dict[str, Any]:
    """Keyword arguments of ``AsyncEngineArgs`` for this engine directory."""
    limits = engine.limits
    args: dict[str, Any] = {
        "model": str(engine.path),
        "tokenizer": str(engine.path),  # guided decoding needs it; no text is made here
        "dtype": DTYPES.get(engine.precision, "auto"),
        "quantization": quantization(engine),
        "load_format": load_format(engine),
        "kv_cache_dtype": "fp8" if engine.kv_dtype == "fp8" else "auto",
        "kv_cache_memory_bytes": options.kv_cache_bytes,
        "gpu_memory_utilization": NO_FRACTION if options.kv_cache_bytes else options.gpu_memory_fraction,
        "max_model_len": limits.max_seq_len,
        "max_num_seqs": options.max_streams,
        "max_num_batched_tokens": max(limits.max_num_tokens, options.max_streams),  # vLLM refuses fewer than sequences
        "max_logprobs": MAX_LOGPROBS,
        "tensor_parallel_size": engine.gpu.tensor_parallel if engine.gpu else 1,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "scheduling_policy": "priority",
        "seed": 0,
    }
    if not GRAPH_OPTIONS & set(engine.runtime.options):  # vLLM accepts sizes from only one of these
        args["cudagraph_capture_sizes"] = [size for size in GRAPH_SIZES if size <= args["max_num_batched_tokens"]]
    adapters = lora_adapters(engine.path)
    if adapters:
        args |= {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": max(map(lora_rank, adapters))}
    return args | own_options(engine)


def own_options(engine: EngineInfo) -> dict[str, Any]:
    """``runtime.options`` of ``engine.json``. Raises ``EngineDirectoryError`` for one that this server sets."""
    taken = sorted(OURS & set(engine.runtime.options))
    if taken:
        raise EngineDirectoryError(
            f"{engine.path / 'engine.json'}: runtime.options may not set {', '.join(taken)}: this server sets it"
        )
    return engine.runtime.options


def speculates(engine: EngineInfo) -> bool:
    return bool(engine.runtime.options.get("speculative_config"))


def quantization(engine: EngineInfo) -> str | None:
    """``fp8`` to quantize a BF16 checkpoint on load; a quantized one (ModelOpt, compressed-tensors) declares itself."""
    config = _config(engine.path)
    if engine.precision == "fp8" and "quantization_config" not in config:
        return "fp8"
    return None


def load_format(engine: EngineInfo) -> str:
    """Random weights for a synthetic engine without weight files (serving-layer benchmarks)."""
    if engine.model.synthetic and not any(engine.path.glob("*.safetensors")):
        return "dummy"
    return "auto"


def capabilities(engine: EngineInfo, lacking: frozenset[str] = frozenset()) -> frozenset[str]:
    """What ``sampling_args`` passes on, less what the release lacks; LoRA only if the directory has adapters."""
    honoured = HONOURED - NOT_SPECULATED if speculates(engine) else HONOURED
    return (honoured | {"lora"} if lora_adapters(engine.path) else honoured) - lacking


def lora_adapters(path: Path) -> list[Path]:
    """Adapter directories, in the order that gives them their ids (1, 2, …)."""
    return [path / engine_dir.LORA_DIR / name for name in engine_dir.adapters(path)]


def lora_rank(adapter: Path) -> int:
    """The smallest rank in vLLM's list that holds this adapter."""
    path = adapter / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineDirectoryError(f"{path} has no rank `r` ({error}): copy the adapter again or remove it") from error
    fitting = [limit for limit in LORA_RANKS if limit >= rank]
    if not fitting:
        raise EngineDirectoryError(f"{path}: rank {rank} is above vLLM's {LORA_RANKS[-1]}: remove the adapter")
    return fitting[0]


def sampling_args(sampling: Sampling, end_ids: tuple[int, ...], *, seeded: bool = True) -> dict[str, Any]:
    """Keyword arguments of ``SamplingParams`` (``structured_outputs`` and bad words are added by the caller).

    ``ignore_eos`` is always true, because we decide which ids end the stream and put them into ``stop_token_ids``. A
    complete grammar allows nothing but an end id, so a guided stream always has end ids. A seed has its price: vLLM
    then samples this row with a generator of its own, one small kernel per row; so a seed is passed on only if the
    caller chose it. Torch takes 63 bits of it.
    """
    return {
        "max_tokens": sampling.max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed % 2**63 if seeded and sampling.temperature else None,
        "stop_token_ids": list(sampling.stop_token_ids or (end_ids if sampling.guide else ())),
        "ignore_eos": True,
        "logit_bias": dict(sampling.logit_bias) or None,
        "allowed_token_ids": list(sampling.allowed_token_ids) or None,
        "logprobs": sampling.logprobs - 1 if sampling.logprobs else None,
        "prompt_logprobs": sampling.prompt_logprobs - 1 if sampling.prompt_logprobs else None,
        "detokenize": False,
        "skip_clone": True,  # made for this request alone
    }


def guide_args(guide: Guide) -> dict[str, Any]:
    """Keyword arguments of ``StructuredOutputsParams``. Raises ``ValueError``."""
    if guide.type == "structural_tag":
        return {"structural_tag": structural_tag.dumped(structural_tag.parsed(guide.guide))}
    if guide.type in ("json", "json_schema"):
        return {"json": prepared(guide.guide)}
    return {{"regex": "regex", "ebnf_grammar": "grammar"}[guide.type]: guide.guide}


def _config(path: Path) -> dict[str, Any]:
    config = _json(path / "config.json")
    if not config:
        raise EngineDirectoryError(
            f"{path / 'config.json'} is missing or empty: rebuild with `make engine RUNTIME=vllm`"
        )
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise EngineDirectoryError(
            f"{path} cannot be read ({error}): rebuild with `make engine RUNTIME=vllm`"
        ) from error
    return data if isinstance(data, dict) else {}
