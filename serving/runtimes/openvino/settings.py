"""How the CPU plugin compiles a model: arithmetic, KV precision, and which steps get a compiled model of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contract.model_shape import ModelShape
from serving.runtimes.openvino.drafts import ALWAYS, MATCHED, Terms

LONG_BYTES = 1 << 30  # weights up to this size are held again for long steps …
ONE_ROW_BYTES = 1 << 28  # … and up to this size for a stream that decodes alone
QUANTIZED_COLUMNS = 32  # activations per scale: 128 is a little faster and costs twice the accuracy (docs/cpu.md)
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
QUANTIZED = ("int8", "int4")
# Of a multiplication in attention (FP32 over 8-bit KV) as against one with an 8-bit weight. Seen for SmolLM2: a step of
# 128 tokens takes 43 ms at the beginning of a prompt, 66, 90, 144 and 228 behind 1,000, 2,000, 4,000 and 7,000 tokens.
ATTENTION_PRICE = 2.0


def properties(
    precision: str, capabilities: Sequence[str], flags: frozenset[str], threads: int = 0, prefill: bool = False
) -> dict[str, Any]:
    """CPU plugin settings. All explicit: the plugin's own defaults differ from one CPU model to the next.

    fp32 is exact everywhere. bf16 computes in BF16 where the CPU has it, else in FP32, and keeps KV in 16 bits (as
    float16 where the CPU lacks BF16: the plugin then refuses BF16 tensors). INT8 and INT4 keep KV in 8 bits, and round
    activations to 8 bits in groups, which needs VNNI: older CPUs compute with 8-bit weights in FP32. With ``prefill``
    they compute in BF16, for which the CPU must have it. ``capabilities``: OpenVINO's; ``flags``: ``cpu_flags()``.
    """
    has_bf16 = "BF16" in capabilities
    quantized = precision not in ("fp32", "bf16")
    bf16 = has_bf16 and (prefill if quantized else precision == "bf16")
    narrow = quantized and not bf16 and (not flags or bool(flags & VNNI))
    kv = {"fp32": "f32", "bf16": "bf16" if has_bf16 else "f16"}.get(precision, "u8")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "KV_CACHE_PRECISION": kv,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTIZED_COLUMNS if narrow else 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def has_long_model(precision: str, flags: frozenset[str], weight_bytes: int) -> bool:
    """Whether long steps may get a model of their own, which holds the weights again. ``flags``: of the CPU.

    Only AMX pays for it: AVX-512 multiplies 8-bit numbers faster than BF16 in steps of any length (docs/cpu.md).
    """
    return precision in QUANTIZED and "amx_bf16" in flags and weight_bytes <= LONG_BYTES


def has_one_row_model(precision: str, weight_bytes: int) -> bool:
    """Whether a stream that decodes alone gets a model of fixed shapes, which holds the weights again.

    It spares OpenVINO's check of every node's shapes in every step, some 2 ms whatever the size of the matrices: a
    fifth of a step of SmolLM2-135M, too little beside larger models' weights. Exact arithmetic does without.
    """
    return precision in QUANTIZED and weight_bytes <= ONE_ROW_BYTES


def attention_span(shape: ModelShape) -> int:
    """The context, in tokens, at which attention costs a prompt's token as much as the rest of the model."""
    products = (
        2 * shape.layers * shape.heads * shape.head_dim
    )  # per token of context: queries by keys, weights by values
    return max(1, int(shape.linear_parameters / products / ATTENTION_PRICE))


def draft_terms(settings: Mapping[str, Any], one_row: bool) -> Terms | None:
    """When a lone stream gets drafts; ``None``: never, because they do not pay.

    Four rows cost little more than one where activations have 8 bits; in FP32 half as much again."""
    if not settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"]:
        return None
    return MATCHED if one_row else ALWAYS


def crossover(short: Mapping[int, float], long: Mapping[int, float]) -> int | None:
    """The rows from which ``long`` takes less time than ``short``, there and wherever a step has more; ``None``: never.

    Both: seconds by the rows of a step."""
    best = None
    for rows in sorted(short, reverse=True):
        if long[rows] >= short[rows]:
            break
        best = rows
    return best


def cpu_flags() -> frozenset[str]:
    """Instruction sets by Linux's names; empty where there is no /proc/cpuinfo or it names none (ARM)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
