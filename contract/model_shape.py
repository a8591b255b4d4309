"""The shape of a decoder, read from its Hugging Face ``config.json``, and what follows from it in bytes.

Which architectures can be built, and how they differ, is the builders' business (build_engine/architectures.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 1024**3
# Bytes of one weight or one KV value. An INT8 or FP8 KV cache keeps its scales elsewhere.
BYTES = {"bf16": 2.0, "fp8": 1.0, "int8_sq": 1.0, "int8_wo": 1.0, "int8": 1.0, "int4": 0.5, "fp32": 4.0}


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
        """Raises ``ValueError`` that names the missing field."""
        scaling = config.get("rope_scaling") or {}
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            return cls(
                name=name,
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                intermediate=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                head_dim=int(config.get("head_dim") or hidden // heads),
                native_context=int(
                    scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]
                ),
                tied=bool(config.get("tie_word_embeddings", False)),
                norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                qkv_bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it is incomplete or damaged ({type(error).__name__}: {error})") from error

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
