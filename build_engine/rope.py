"""Rotary frequencies: plain, linear, YaRN (https://arxiv.org/abs/2309.00071) and Llama 3's, as in transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import BuildError
from contract.model_shape import rope_of

DEFAULT_THETA = 10000.0
# kind -> the numbers it cannot do without
NEEDS = {
    "yarn": ("factor",),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
OPTIONAL = (
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
)


def kind_of(config: dict[str, Any]) -> str:
    """The type of ``rope_scaling`` (transformers 5: ``rope_parameters``); "default" when the config has none.

    Raises ``BuildError`` when it is not one for all layers."""
    try:
        scaling = rope_of(config)
    except ValueError as error:
        raise BuildError(f"config.json: {error}: only one kind of rotary positions is supported") from error
    return str(scaling.get("rope_type", scaling.get("type", "default")))


def scaling_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The scaling of a config's positions, or None when there is none.

    Raises ``BuildError`` for a kind that is not known, and for values that it lacks or that make no sense."""
    kind = kind_of(config)
    if kind == "default":
        return None
    scaling = rope_of(config)
    if kind not in NEEDS:
        raise BuildError(f"config.json: rope_scaling type {kind!r} is not supported: use {', '.join(NEEDS)} or none")
    for name in (*NEEDS[kind], *OPTIONAL):
        value = scaling.get(name)
        if (value is not None or name in NEEDS[kind]) and not _is_positive(value):
            raise BuildError(f"config.json: {name} of its rope_scaling ({kind}) is {value!r}, not a number above 0")
    if kind == "llama3" and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        raise BuildError(
            f"config.json: low_freq_factor {scaling['low_freq_factor']} of its rope_scaling must be below "
            f"high_freq_factor {scaling['high_freq_factor']}"
        )
    return {**scaling, "rope_type": kind}


def theta_of(config: dict[str, Any]) -> float:
    """The base of the wavelengths. Raises ``BuildError`` when it is not a number above 1."""
    parameters = config.get("rope_parameters")
    inner = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    theta = next((value for value in (config.get("rope_theta"), inner) if value is not None), DEFAULT_THETA)
    if not _is_positive(theta) or theta <= 1:
        raise BuildError(f"config.json: rope_theta is {theta!r}, not a number above 1")
    return float(theta)


def positions_of(config: dict[str, Any]) -> int:
    """Tokens that the positions reach. Qwen's own recipe for YaRN leaves ``max_position_embeddings`` as it was:
    https://huggingface.co/Qwen/Qwen2.5-7B-Instruct#processing-long-texts"""
    native = int(config["max_position_embeddings"])
    scaling = scaling_of(config) if kind_of(config) == "yarn" else None
    if not scaling:
        return native
    return max(native, int((scaling.get("original_max_position_embeddings") or native) * scaling["factor"]))


def spelled_out(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with ``rope_theta`` and ``rope_scaling`` in place of transformers 5's ``rope_parameters``.

    Every version reads these; an older one would take 10,000 for the theta inside ``rope_parameters``, and a newer one
    drops ``rope_parameters`` where there is a ``rope_scaling`` too."""
    if not config.get("rope_parameters"):
        return config
    scaling = scaling_of(config)
    rest = {name: value for name, value in config.items() if name not in ("rope_parameters", "rope_scaling")}
    inner = {name: value for name, value in (scaling or {}).items() if name != "rope_theta"}
    return {**rest, "rope_theta": theta_of(config), **({"rope_scaling": inner} if inner else {})}


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


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

    low, high = correction(scaling.get("beta_fast") or 32), correction(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low or 0.001)
    keep = 1 - np.clip(ramp, 0, 1).astype(np.float32)  # fast dimensions extrapolate, slow ones interpolate
    mixed = plain / np.float32(factor) * (1 - keep) + plain * keep
    return mixed.astype(np.float32), _attention_factor(factor, scaling)


def _attention_factor(factor: float, scaling: dict[str, Any]) -> float:
    """YaRN's factor on cos and sin: the one given, or what follows from ``factor`` and the two ``mscale``."""

    def growth(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if (given := scaling.get("attention_factor")) is not None:
        return float(given)
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return growth(scaling["mscale"]) / growth(scaling["mscale_all_dim"])
    return growth(1.0)
