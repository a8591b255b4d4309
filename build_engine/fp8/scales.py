"""E4M3 with one scale per tensor: value = code x scale, and the largest magnitude becomes the largest code, 448.

Linear maps that an engine joins (query, key and value; gate and up) share one scale. With separate scales, vLLM and
TensorRT-LLM would dequantize and round them a second time at load
(https://github.com/vllm-project/vllm/blob/v0.26.0/vllm/model_executor/layers/quantization/modelopt.py,
``requantize_with_max_scale``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

LARGEST = 448.0
# place of ``decoder.Extremes`` -> the linear maps that read it
JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def scale_of(largest: float) -> float:
    """A tensor of zeros gets 1."""
    return largest / LARGEST if largest else 1.0


def joint_scale(weights: Sequence[torch.Tensor]) -> float:
    return scale_of(max(float(weight.abs().amax()) for weight in weights))


def to_codes(values: torch.Tensor, scale: float) -> torch.Tensor:
    """``float8_e4m3fn`` of the same shape, rounded to nearest; larger magnitudes become the largest code."""
    return (values.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
