"""Will it fit? The request, why it cannot be built, and the nearest one that can. Pure arithmetic.

Memory of one GPU = weights + the runtime's overhead + the KV pool. The overhead is modelled as a base (CUDA
context, kernels, graphs) plus the activations of one step plus the logits. vLLM takes its fraction of the whole memory,
TensorRT-LLM its fraction of what is free once the weights are loaded (docs/tensorrt_llm_facts.md, "LLM API").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from build_engine.plan.profiles import PROFILES, SPEEDS, Profile, Speed
from contract.gpus import GPUS, MEMORY_FRACTION, Gpu
from contract.model_shape import GIB, ModelShape

RUNTIME_BASE_BYTES = int(0.9 * GIB)
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
    quantized: str = ""  # precision of an already quantized checkpoint; it cannot be changed


def auto_precision(request: PlanRequest) -> str:
    """FP8 where the GPU has it, else INT8; TensorRT-LLM's PyTorch backend reads no INT8, so BF16 there."""
    if request.quantized:
        return request.quantized
    if request.gpu.has_fp8:
        return "fp8"
    if request.runtime == "vllm":
        return "int8"
    return "int8_sq" if request.backend == "engine" else "bf16"


def precisions(request: PlanRequest) -> tuple[str, ...]:
    if request.quantized:
        return (request.quantized,)
    return VLLM_PRECISIONS if request.runtime == "vllm" else PRECISIONS


def unsupported(shape: ModelShape, request: PlanRequest) -> str:
    """Why this combination cannot be built with any amount of memory, or an empty string."""
    gpu, precision, kv_dtype, tp = request.gpu, precision_of(request), kv_dtype_of(request), request.tensor_parallel
    where = f"on {gpu.name} (SM{gpu.sm})"
    if gpu.sm < 80:
        return f"{gpu.name} is SM{gpu.sm}: BF16 needs SM80 or newer, and FP16 overflows on Qwen2.5"
    if precision not in precisions(request):
        what = "precision of this quantized checkpoint" if request.quantized else f"{request.runtime} precision"
        return f"{what}: {precision!r} is not one of auto, {', '.join(precisions(request))}"
    if precision == "fp8" and not gpu.has_fp8:
        return f"fp8 cannot run {where}: it needs SM89 or newer"
    if precision.startswith("int8") and request.runtime == "tensorrt_llm":
        if request.backend == "pytorch":
            return f"{precision} needs BACKEND=engine: TensorRT-LLM's PyTorch backend reads no INT8 checkpoint"
        if not gpu.has_int8_engine:
            return f"{precision} cannot be built {where}: TensorRT-LLM refuses INT8 beyond SM90"
    if kv_dtype == "fp8" and precision != "fp8":
        return f"an FP8 KV cache needs precision fp8, not {precision}"
    if kv_dtype == "int8" and not (precision.startswith("int8") and request.runtime == "tensorrt_llm"):
        return f"an INT8 KV cache needs a TensorRT engine of precision int8_sq or int8_wo, not {precision}"
    if request.speed.name != "balanced" and request.runtime != "tensorrt_llm":
        return f"PROFILE={request.speed.name} is for tensorrt_llm only: {request.runtime} has one setting for all loads"
    if request.backend != "engine" and request.runtime != "tensorrt_llm":
        return f"BACKEND={request.backend} is for tensorrt_llm only: {request.runtime} has one"
    if kv_dtype not in ("bf16", "fp8", "int8"):
        return f"KV type {kv_dtype!r} is not one of auto, bf16, fp8, int8"
    if tp not in (1, 2, 4, 8) or shape.heads % tp or shape.kv_heads % tp:
        return f"tensor parallel size {tp} does not divide {shape.heads} heads and {shape.kv_heads} KV heads"
    return ""


def precision_of(request: PlanRequest) -> str:
    return auto_precision(request) if request.precision == "auto" else request.precision


def uses_plugins(request: PlanRequest, precision: str) -> bool:
    """The FP8 GEMM plugins exist for engines on Hopper only."""
    return precision == "fp8" and request.backend == "engine" and request.gpu.sm == 90


def kv_dtype_of(request: PlanRequest) -> str:
    return "bf16" if request.kv_dtype == "auto" else request.kv_dtype


def max_num_tokens(gpu: Gpu, speed: Speed = SPEEDS["balanced"]) -> int:
    """Tokens per step: 8192 keep a large GPU busy; a small one needs the activation memory for its KV cache."""
    if gpu.memory_mib < 40_000:
        return 4096
    return speed.max_num_tokens or 8192


def overhead_bytes(shape: ModelShape, num_tokens: int, batch: int) -> int:
    """Base, a step's activations (gate, up, their product, four hidden vectors; BF16), and FP32 logits twice."""
    activations = num_tokens * 2 * (3 * shape.intermediate + 4 * shape.hidden)
    return RUNTIME_BASE_BYTES + activations + batch * shape.vocab * 4 * 2


def kv_pool_bytes(shape: ModelShape, request: PlanRequest, batch: int) -> int:
    """Negative when not even the weights fit."""
    weights = shape.weight_bytes(precision_of(request)) // request.tensor_parallel
    overhead = overhead_bytes(shape, max_num_tokens(request.gpu, request.speed), batch)
    total = request.gpu.memory_mib * 1024**2
    if request.runtime == "vllm":
        return int(total * request.memory_fraction) - weights - overhead
    return int((total - weights - overhead) * request.memory_fraction)


def too_large(shape: ModelShape, request: PlanRequest) -> str:
    pool = kv_pool_bytes(shape, request, batch=1)
    need = request.profile.max_seq_len * shape.kv_bytes_per_token(kv_dtype_of(request)) // request.tensor_parallel
    if pool >= need:
        return ""
    weights = shape.weight_bytes(precision_of(request)) / request.tensor_parallel / GIB
    return (
        f"{shape.name} in {precision_of(request)} does not fit {request.gpu.name}: {weights:.1f} GiB of weights leave "
        f"{max(pool, 0) / GIB:.1f} GiB for the KV cache, and one sequence of {request.profile.max_seq_len} tokens "
        f"needs {need / GIB:.1f} GiB"
    )


def nearest(shape: ModelShape, request: PlanRequest) -> PlanRequest | None:
    """The first that works, changing as little as possible: precision, context, both, more GPUs, a larger GPU."""
    for candidate in _alternatives(request):
        if not unsupported(shape, candidate) and not too_large(shape, candidate):
            return candidate
    return None


def _alternatives(request: PlanRequest) -> Iterator[PlanRequest]:
    kinds = [precision_of(replace(request, precision="auto")), *precisions(request)]
    shorter = [p for p in reversed(PROFILES.values()) if p.max_seq_len < request.profile.max_seq_len]
    plain = replace(request, kv_dtype="auto")
    yield plain
    yield from (replace(plain, precision=p) for p in kinds)
    yield from (replace(request, profile=p) for p in shorter)
    yield from (replace(plain, profile=p, precision=q) for p in shorter for q in kinds)
    yield from (replace(plain, tensor_parallel=tp, precision="auto") for tp in (1, 2, 4))
    for gpu in sorted(GPUS.values(), key=lambda gpu: gpu.memory_mib):
        yield replace(plain, gpu=gpu, precision="auto", tensor_parallel=1)


def nearest_text(shape: ModelShape, request: PlanRequest) -> str:
    found = nearest(shape, request)
    if found is None:
        return "No GPU in the table can hold it"
    words = [f"PRECISION={precision_of(found)}", f"CONTEXT={found.profile.name}", f"GPU={found.gpu.key}"]
    words += [f"KV={found.kv_dtype}"] if found.kv_dtype != "auto" else []
    words += [f"TP={found.tensor_parallel}"] if found.tensor_parallel != 1 else []
    return f"The nearest that works: {' '.join(words)}"
