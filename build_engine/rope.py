"""Rotary frequencies: plain, linear, YaRN (https://arxiv.org/abs/2309.00071) and Llama 3's, as in transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import BuildError

DEFAULT_THETA = 10000.0
KINDS = ("yarn", "linear", "llama3")


def scaling_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling`` of a config (transformers 5 writes ``rope_parameters``), or None when there is none."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind not in KINDS:
        raise BuildError(f"config.json: rope_scaling type {kind!r} is not supported: use {', '.join(KINDS)} or none")
    return {**scaling, "rope_type": kind}


def theta_of(config: dict[str, Any]) -> float:
    parameters = config.get("rope_parameters") or {}
    return float(config.get("rope_theta") or parameters.get("rope_theta") or DEFAULT_THETA)


def frequencies(config: dict[str, Any], head_dim: int) -> tuple[npt.NDArray[np.float32], float]:
    """Radians per position [head_dim / 2], and the factor on cos and sin (1 but for YaRN)."""
    theta, scaling = theta_of(config), scaling_of(config)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = (np.float32(1.0) / np.float32(theta) ** exponents).astype(np.float32)
    if scaling is None:
        return plain, 1.0
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return plain / np.float32(factor), 1.0
    if scaling["rope_type"] == "llama3":
        return _llama3(plain, factor, scaling), 1.0
    return _yarn(plain, theta, head_dim, factor, scaling, config)


def _llama3(plain: npt.NDArray[np.float32], factor: float, scaling: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Slow dimensions are slowed by ``factor``, fast ones are kept, and those between are mixed by their wavelength."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * plain / np.float32(2 * math.pi)
    keep = np.clip((turns - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    return ((1 - keep) * plain / np.float32(factor) + keep * plain).astype(np.float32)


def _yarn(
    plain: npt.NDArray[np.float32],
    theta: float,
    dim: int,
    factor: float,
    scaling: dict[str, Any],
    config: dict[str, Any],
) -> tuple[npt.NDArray[np.float32], float]:
    original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]

    def correction(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(correction(scaling.get("beta_fast") or 32)), 0)
    high = min(math.ceil(correction(scaling.get("beta_slow") or 1)), dim - 1)
    ramp = (np.arange(dim // 2, dtype=np.float32) - low) / max(high - low, 0.001)
    keep = 1 - np.clip(ramp, 0, 1).astype(np.float32)  # fast dimensions extrapolate, slow ones interpolate
    mixed = plain / np.float32(factor) * (1 - keep) + plain * keep
    attention = scaling.get("attention_factor")
    return mixed.astype(np.float32), float(attention if attention is not None else 0.1 * math.log(factor) + 1.0)
