"""Tensor parallelism: how many GPUs can share a model."""

from __future__ import annotations

from typing import Any

from contract.errors import BuildError

MOST_GPUS = 8  # of one host


def require_divisible(config: dict[str, Any], gpus_wanted: int) -> None:
    """Raises ``BuildError``. vLLM meets parts that are not whole with an assertion, while it loads the weights."""
    fitting = [number for number in range(1, MOST_GPUS + 1) if _divides(config, number)]
    if gpus_wanted not in fitting:
        names = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
        sizes = ", ".join(f"{name} {config[name]}" for name in names if name in config)
        raise BuildError(
            f"--tp: {gpus_wanted} GPUs cannot share this model equally ({sizes}): use {', '.join(map(str, fitting))}"
        )


def _divides(config: dict[str, Any], gpus_wanted: int) -> bool:
    """KV heads may be fewer than GPUs: each is then held by several."""
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    shared = not kv_heads or kv_heads % gpus_wanted == 0 or gpus_wanted % kv_heads == 0
    return shared and not heads % gpus_wanted and not int(config.get("intermediate_size") or 0) % gpus_wanted
