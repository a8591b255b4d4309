"""The shape of a decoder, read from its Hugging Face ``config.json``, and what follows from it in bytes.

Which architectures can be built, and how they differ, is left to build_engine/architectures.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 1024**3
# Bytes of one weight or one KV value. An INT8 or FP8 KV cache keeps its scales elsewhere.
BYTES = {"bf16": 2.0, "fp8": 1.0, "int8_sq": 1.0, "int8_wo": 1.0, "int8": 1.0, "int4": 0.5, "fp32": 4.0}


def flag(config: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A switch of a config. Raises ``ValueError`` when it is neither true, false nor null."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, neither true nor false")
    return default if value is None else value


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_scaling``, or ``rope_parameters`` as transformers 5 writes it; empty when the config has neither.

    Raises ``ValueError`` when it is not an object of names and plain values."""
    for name in ("rope_scaling", "rope_parameters"):
        found = config.get(name) or {}
        if not isinstance(found, dict):
            raise ValueError(f"{name} is {found!r}, not an object")
        if nested := [key for key, value in found.items() if isinstance(value, dict)]:
            raise ValueError(f"{name} has rotary positions for each kind of layer ({nested[0]}), not one for all")
        if found:
            return found
    return {}


def _count(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config[name] if default is None else config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, not a whole number above 0")
    return value


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes in elements; ``native_context`` is the number of positions the model was trained on."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    head_dim: int
    native_context: int = 32768
    tied: bool = True  # embedding and lm_head are one table
    norm_eps: float = 1e-6
    qkv_bias: bool = True  # Qwen2 always has these biases, others when ``attention_bias`` says so

    @classmethod
    def of(cls, config: dict[str, Any], name: str = "the model") -> ModelShape:
        """Raises ``ValueError`` that names the missing or impossible field and its value."""
        try:
            return cls._of(config, name)
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"it is incomplete or damaged ({what})") from error

    @classmethod
    def _of(cls, config: dict[str, Any], name: str) -> ModelShape:
        heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
        kv_heads = _count(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise ValueError(f"{heads} num_attention_heads are not a multiple of {kv_heads} num_key_value_heads")
        head_dim = _count(config, "head_dim", hidden // heads)
        if head_dim % 2:
            raise ValueError(f"heads of {head_dim} dimensions: rotary positions need an even number")
        eps = config.get("rms_norm_eps", 1e-6)
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1:
            raise ValueError(f"rms_norm_eps is {eps!r}")
        positions = _count(config, "max_position_embeddings")
        return cls(
            name=name,
            layers=_count(config, "num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            intermediate=_count(config, "intermediate_size"),
            vocab=_count(config, "vocab_size"),
            head_dim=head_dim,
            native_context=_count(rope_of(config), "original_max_position_embeddings", positions),
            tied=flag(config, "tie_word_embeddings"),
            norm_eps=float(eps),
            qkv_bias=flag(config, "attention_bias", config.get("model_type") == "qwen2"),
        )

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers' linear maps: the ones a quantizer quantizes."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def small_parameters(self) -> int:
        """Biases and norms, which stay in BF16."""
        biases = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        return self.layers * (biases + 2 * self.hidden) + self.hidden

    def weight_bytes(self, precision: str) -> int:
        """Bytes on the GPU: linear weights in ``precision``, embedding and lm_head in BF16 (quantizers skip both)."""
        tables = self.embedding_parameters * (1 if self.tied else 2) + self.small_parameters
        scales = 0 if precision in ("bf16", "fp32") else 4 * self.linear_parameters // self.hidden
        wide = 4 if precision == "fp32" else 2
        return int(self.linear_parameters * BYTES[precision]) + scales + tables * wide

    def decode_bytes(self, precision: str) -> int:
        """Bytes of weights read in one decode step: all but the embedding table, of which one row is read."""
        untouched = 0 if self.tied else self.embedding_parameters * (4 if precision == "fp32" else 2)
        return self.weight_bytes(precision) - untouched

    def kv_bytes_per_token(self, kv_dtype: str) -> int:
        """Keys and values of one token, all layers and all GPUs together."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * BYTES[kv_dtype])
