"""What an engine can do on a GPU: streams, limits, the speed that memory bandwidth allows. Pure arithmetic.

``fit`` decides whether it can be built at all. Tests check the figures against what vLLM
0.24 reported on one H200 (docs/building.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from build_engine.plan import fit
from build_engine.plan.fit import PlanRequest, kv_dtype_of, kv_pool_bytes, max_num_tokens, overhead_bytes, precision_of
from build_engine.plan.profiles import rope_scaling
from contract.errors import BuildError
from contract.gpus import Gpu
from contract.model_shape import ModelShape

TOKENS_PER_BLOCK = {"tensorrt_llm": 32, "vllm": 16}
STREAM_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)


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
    problem = fit.unsupported(shape, request) or fit.too_large(shape, request)
    if problem:
        raise BuildError(f"{problem}. {fit.nearest_text(shape, request)}")
    return _calculate(shape, request)


def _calculate(shape: ModelShape, request: PlanRequest) -> EnginePlan:
    precision, kv_dtype, tp = precision_of(request), kv_dtype_of(request), request.tensor_parallel
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
    """The profile's batch size, lowered to a power of two at which the pool holds streams that are a quarter full.

    Streams rarely fill their context; when they do, the scheduler (guaranteed no evict) makes new ones wait."""
    wanted = max(1, min(_wanted_batch(request), kv_tokens * 4 // request.profile.max_seq_len))
    return 1 << (wanted.bit_length() - 1)


def _rows(shape: ModelShape, request: PlanRequest, batch: int, blocks: int, per_token: int) -> Iterator[StreamRow]:
    block, weights = (
        TOKENS_PER_BLOCK[request.runtime],
        shape.decode_bytes(precision_of(request)) // request.tensor_parallel,
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
            f"it is static and may cost quality on short prompts, so keep a chat engine beside it"
        )
    if kv_dtype != "bf16":
        yield f"{kv_dtype} KV is known to break Qwen2.5: the engine is served only after `make verify` passes"
    if kv_dtype == "int8":
        step = max_num_tokens(request.gpu, request.speed)
        yield f"int8 KV turns paged context FMHA off: no prefix reuse, no chunked prefill, prompts up to {step} tokens"
    if request.runtime == "tensorrt_llm" and request.backend == "engine" and request.gpu.sm >= 100:
        yield "TensorRT engines barely support Blackwell: prefer RUNTIME=vllm or BACKEND=pytorch"
    if request.speed.plugins and not fit.uses_plugins(request, precision):
        yield f"profile {request.speed.name} sets limits only: its FP8 plugins are for FP8 engines on Hopper (SM90)"
    if request.tensor_parallel > 1:
        yield "tensor parallelism lowers latency; for throughput run one engine per GPU"
