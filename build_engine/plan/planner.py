"""Will it fit, how many streams, how fast at best: pure arithmetic before anything is downloaded.

Memory of one GPU = weights + the runtime's own use + the KV pool. The runtime's own use is modelled as a base (CUDA
context, kernels, graphs) plus the activations of one step plus the logits; tests check the figures against what vLLM
0.24 reported on one H200 (docs/building.md). vLLM takes its fraction of the whole memory, TensorRT-LLM its fraction of
what is free once the weights are loaded (docs/tensorrt_llm_facts.md, "LLM API").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from build_engine.plan.profiles import PROFILES, SPEEDS, Profile, Speed, rope_scaling
from contract.errors import BuildError
from contract.gpus import GPUS, MEMORY_FRACTION, Gpu
from contract.model_shape import GIB, ModelShape

RUNTIME_BASE_BYTES = int(0.9 * GIB)
TOKENS_PER_BLOCK = {"tensorrt_llm": 32, "vllm": 16}
STREAM_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
PRECISIONS = ("fp8", "int8_sq", "int8_wo", "bf16")  # of TensorRT-LLM
VLLM_PRECISIONS = ("fp8", "int8", "bf16")  # INT8 as compressed tensors


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the user asked for. ``precision`` and ``kv_dtype`` may be ``auto``."""

    gpu: Gpu
    profile: Profile
    precision: str = "auto"
    kv_dtype: str = "auto"
    runtime: str = "tensorrt_llm"
    backend: str = "engine"  # tensorrt_llm only
    tensor_parallel: int = 1
    speed: Speed = SPEEDS["balanced"]  # tensorrt_llm only
    memory_fraction: float = MEMORY_FRACTION


@dataclass(frozen=True, slots=True)
class StreamRow:
    """``fit`` streams of ``context`` tokens each fit the KV pool; ``at_once`` of them are decoded together.

    ``step_floor_ms`` is the time memory bandwidth alone needs for one token of all of them (0 when unknown)."""

    context: int
    fit: int
    at_once: int
    step_floor_ms: float


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Bytes are per GPU."""

    model: str
    request: PlanRequest
    precision: str
    kv_dtype: str
    max_seq_len: int
    max_input_len: int
    max_batch_size: int
    max_num_tokens: int
    rope_scaling: dict[str, Any] | None
    weight_bytes: int
    overhead_bytes: int
    kv_pool_bytes: int
    kv_bytes_per_token: int
    kv_tokens: int
    kv_blocks: int
    tokens_per_block: int
    streams: tuple[StreamRow, ...]
    decode_floor_ms: float
    limit: str
    notes: tuple[str, ...]


def plan(shape: ModelShape, request: PlanRequest) -> EnginePlan:
    """The plan for ``request``. Raises ``BuildError`` when it cannot be built or does not fit, naming what would."""
    problem = unsupported(shape, request) or _too_large(shape, request)
    if problem:
        raise BuildError(f"{problem}. {_nearest_text(shape, request)}")
    return _calculate(shape, request)


def auto_precision(request: PlanRequest) -> str:
    """FP8 where the GPU has it, else INT8; TensorRT-LLM's PyTorch backend reads no INT8, so BF16 there."""
    if request.gpu.has_fp8:
        return "fp8"
    if request.runtime == "vllm":
        return "int8"
    return "int8_sq" if request.backend == "engine" else "bf16"


def precisions(runtime: str) -> tuple[str, ...]:
    return VLLM_PRECISIONS if runtime == "vllm" else PRECISIONS


def unsupported(shape: ModelShape, request: PlanRequest) -> str:
    """Why this combination cannot be built whatever the memory, or an empty string."""
    gpu, precision, kv_dtype, tp = request.gpu, _precision(request), _kv_dtype(request), request.tensor_parallel
    where = f"on {gpu.name} (SM{gpu.sm})"
    if gpu.sm < 80:
        return f"{gpu.name} has SM{gpu.sm}, BF16 needs SM80 or newer, and FP16 overflows on Qwen2.5"
    if precision not in precisions(request.runtime):
        return f"{request.runtime} precision {precision!r} is not one of auto, {', '.join(precisions(request.runtime))}"
    if precision == "fp8" and not gpu.has_fp8:
        return f"fp8 cannot run {where}: it needs SM89 or newer"
    if precision.startswith("int8") and request.runtime == "tensorrt_llm":
        if request.backend == "pytorch":
            return f"{precision} is engine-only: TensorRT-LLM's PyTorch backend reads no INT8 checkpoint"
        if not gpu.has_int8_engine:
            return f"{precision} cannot be built {where}: TensorRT-LLM refuses INT8 beyond SM90"
    if kv_dtype == "fp8" and precision != "fp8":
        return f"an FP8 KV cache needs precision fp8, not {precision}"
    if kv_dtype == "int8" and not (precision.startswith("int8") and request.runtime == "tensorrt_llm"):
        return f"an INT8 KV cache needs a TensorRT engine of precision int8_sq or int8_wo, not {precision}"
    if request.speed.name != "balanced" and request.runtime != "tensorrt_llm":
        return f"profile {request.speed.name} is of tensorrt_llm alone: {request.runtime} has one setting for all loads"
    if kv_dtype not in ("bf16", "fp8", "int8"):
        return f"KV type {kv_dtype!r} is not one of auto, bf16, fp8, int8"
    if tp not in (1, 2, 4, 8) or shape.heads % tp or shape.kv_heads % tp:
        return f"tensor parallel size {tp} does not divide {shape.heads} heads and {shape.kv_heads} KV heads"
    return ""


def _precision(request: PlanRequest) -> str:
    return auto_precision(request) if request.precision == "auto" else request.precision


def uses_plugins(request: PlanRequest, precision: str) -> bool:
    return precision == "fp8" and request.backend == "engine" and request.gpu.sm == 90


def _kv_dtype(request: PlanRequest) -> str:
    return "bf16" if request.kv_dtype == "auto" else request.kv_dtype


def max_num_tokens(gpu: Gpu, speed: Speed = SPEEDS["balanced"]) -> int:
    """Tokens of one step: 8192 feeds a large GPU; a small one needs the activation memory for KV."""
    if gpu.memory_mib < 40_000:
        return 4096
    return speed.max_num_tokens or 8192


def overhead_bytes(shape: ModelShape, num_tokens: int, batch: int) -> int:
    """Base, a step's activations (gate, up, their product, four hidden vectors; BF16), and FP32 logits twice."""
    activations = num_tokens * 2 * (3 * shape.intermediate + 4 * shape.hidden)
    return RUNTIME_BASE_BYTES + activations + batch * shape.vocab * 4 * 2


def kv_pool_bytes(shape: ModelShape, request: PlanRequest, batch: int) -> int:
    """May be negative: then not even the weights fit."""
    weights = shape.weight_bytes(_precision(request)) // request.tensor_parallel
    overhead = overhead_bytes(shape, max_num_tokens(request.gpu, request.speed), batch)
    total = request.gpu.memory_mib * 1024**2
    if request.runtime == "vllm":
        return int(total * request.memory_fraction) - weights - overhead
    return int((total - weights - overhead) * request.memory_fraction)


def _too_large(shape: ModelShape, request: PlanRequest) -> str:
    pool = kv_pool_bytes(shape, request, batch=1)
    need = request.profile.max_seq_len * shape.kv_bytes_per_token(_kv_dtype(request)) // request.tensor_parallel
    if pool >= need:
        return ""
    weights = shape.weight_bytes(_precision(request)) / request.tensor_parallel / GIB
    return (
        f"{shape.name} in {_precision(request)} does not fit {request.gpu.name}: {weights:.1f} GiB of weights leave "
        f"{max(pool, 0) / GIB:.1f} GiB for KV, one of {request.profile.max_seq_len} tokens needs {need / GIB:.1f} GiB"
    )


def nearest(shape: ModelShape, request: PlanRequest) -> PlanRequest | None:
    """The first thing that works, changing as little as possible: precision, context, both, more GPUs, a larger GPU."""
    for candidate in _alternatives(request):
        if not unsupported(shape, candidate) and not _too_large(shape, candidate):
            return candidate
    return None


def _alternatives(request: PlanRequest) -> Iterator[PlanRequest]:
    kinds = [_precision(replace(request, precision="auto")), *precisions(request.runtime)]
    shorter = [p for p in reversed(PROFILES.values()) if p.max_seq_len < request.profile.max_seq_len]
    plain = replace(request, kv_dtype="auto")
    yield plain
    yield from (replace(plain, precision=p) for p in kinds)
    yield from (replace(request, profile=p) for p in shorter)
    yield from (replace(plain, profile=p, precision=q) for p in shorter for q in kinds)
    yield from (replace(plain, tensor_parallel=tp, precision="auto") for tp in (1, 2, 4))
    for gpu in sorted(GPUS.values(), key=lambda gpu: gpu.memory_mib):
        yield replace(plain, gpu=gpu, precision="auto", tensor_parallel=1)


def _nearest_text(shape: ModelShape, request: PlanRequest) -> str:
    found = nearest(shape, request)
    if found is None:
        return "Nothing in the table of GPUs fits it"
    words = [f"PRECISION={_precision(found)}", f"CONTEXT={found.profile.name}", f"GPU={found.gpu.key}"]
    words += [f"KV={found.kv_dtype}"] if found.kv_dtype != "auto" else []
    words += [f"TP={found.tensor_parallel}"] if found.tensor_parallel != 1 else []
    return f"The nearest that works: {' '.join(words)}"


def _calculate(shape: ModelShape, request: PlanRequest) -> EnginePlan:
    precision, kv_dtype, tp = _precision(request), _kv_dtype(request), request.tensor_parallel
    per_token = shape.kv_bytes_per_token(kv_dtype) // tp
    length, block = request.profile.max_seq_len, TOKENS_PER_BLOCK[request.runtime]
    step = max_num_tokens(request.gpu, request.speed)
    batch = _batch_size(kv_pool_bytes(shape, request, 1) // per_token, request)
    pool = kv_pool_bytes(shape, request, batch)
    blocks = pool // (per_token * block)
    weights = shape.weight_bytes(precision) // tp
    rows = tuple(_rows(shape, request, batch, blocks, per_token))
    return EnginePlan(
        model=shape.name,
        request=request,
        precision=precision,
        kv_dtype=kv_dtype,
        max_seq_len=length,
        max_input_len=_max_input_len(request, kv_dtype, length, step),
        max_batch_size=batch,
        max_num_tokens=step,
        rope_scaling=rope_scaling(length, shape.native_context),
        weight_bytes=weights,
        overhead_bytes=overhead_bytes(shape, step, batch),
        kv_pool_bytes=pool,
        kv_bytes_per_token=per_token,
        kv_tokens=blocks * block,
        kv_blocks=blocks,
        tokens_per_block=block,
        streams=rows,
        decode_floor_ms=_milliseconds(shape.decode_bytes(precision) // tp, request.gpu),
        limit=_limit(rows[-1], batch, _wanted_batch(request)),
        notes=tuple(_notes(shape, request, precision, kv_dtype)),
    )


def _max_input_len(request: PlanRequest, kv_dtype: str, length: int, step: int) -> int:
    """Without chunked prefill, which an INT8 KV cache rules out, a prompt must fit one step."""
    whole = kv_dtype == "int8" and request.runtime == "tensorrt_llm"
    return min(length - 1, step) if whole else length - 1


def _wanted_batch(request: PlanRequest) -> int:
    return request.speed.max_batch_size or request.profile.max_batch_size


def _batch_size(kv_tokens: int, request: PlanRequest) -> int:
    """The profile's batch, lowered to a power of two for which the pool holds streams a quarter full on average.

    Streams rarely fill their context; the scheduler (guaranteed no evict) makes the others wait when they do."""
    wanted = max(1, min(_wanted_batch(request), kv_tokens * 4 // request.profile.max_seq_len))
    return 1 << (wanted.bit_length() - 1)


def _rows(shape: ModelShape, request: PlanRequest, batch: int, blocks: int, per_token: int) -> Iterator[StreamRow]:
    block, weights = (
        TOKENS_PER_BLOCK[request.runtime],
        shape.decode_bytes(_precision(request)) // request.tensor_parallel,
    )
    limit = request.profile.max_seq_len
    for context in [*(c for c in STREAM_CONTEXTS if c < limit), limit]:
        fit = blocks // -(-context // block)
        at_once = min(fit, batch)
        yield StreamRow(context, fit, at_once, _milliseconds(weights + at_once * context * per_token, request.gpu))


def _milliseconds(size: int, gpu: Gpu) -> float:
    return size / (gpu.bandwidth_gb_s * 1e9) * 1000 if gpu.bandwidth_gb_s else 0.0


def _limit(full: StreamRow, batch: int, wanted: int) -> str:
    if full.fit >= batch:
        return f"batch size: all {batch} streams fit the KV pool at full context"
    if batch < wanted:
        return f"GPU memory: batch lowered from {wanted} to {batch}, {full.fit} streams at full context"
    return f"KV memory: {full.fit} of {batch} streams fit at full context, shorter ones share the pool"


def _notes(shape: ModelShape, request: PlanRequest, precision: str, kv_dtype: str) -> Iterator[str]:
    scaling = rope_scaling(request.profile.max_seq_len, shape.native_context)
    if scaling:
        yield (
            f"beyond {shape.native_context} tokens: YaRN factor {scaling['factor']:g} in an engine of its own; "
            f"being static it may cost quality on short prompts, so keep a chat engine beside it"
        )
    if kv_dtype != "bf16":
        yield f"{kv_dtype} KV is known to break Qwen2.5: the engine is served only after `make verify` passes"
    if kv_dtype == "int8":
        step = max_num_tokens(request.gpu, request.speed)
        yield f"int8 KV turns paged context FMHA off: no prefix reuse, no chunked prefill, prompts up to {step} tokens"
    if request.runtime == "tensorrt_llm" and request.backend == "engine" and request.gpu.sm >= 100:
        yield "engines on Blackwell are the last line's edge: prefer RUNTIME=vllm or BACKEND=pytorch"
    if request.speed.plugins and not uses_plugins(request, precision):
        yield f"profile {request.speed.name} sets limits only: its FP8 plugins are for FP8 engines on Hopper (SM90)"
    if request.tensor_parallel > 1:
        yield "tensor parallelism lowers latency; for throughput run one engine per GPU"
