"""What the planner needs of a model, from ``config.json`` alone: parameter counts and KV bytes per token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.errors import BuildError
from contract.paths import ROOT

DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"
SHIPPED = {DEFAULT_MODEL.lower(): ROOT / "build_engine" / "data" / "qwen2.5-7b-instruct.config.json"}
BYTES = {"bf16": 2.0, "fp8": 1.0, "int8_sq": 1.0, "int8_wo": 1.0, "int8": 1.0, "int4": 0.5, "fp32": 4.0}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Qwen2-style decoder: grouped-query attention, gated MLP, biases on q, k and v only."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    native_context: int
    tied: bool

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers' linear maps: what a quantizer quantizes."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def small_parameters(self) -> int:
        """Biases and norms, kept in BF16."""
        return self.layers * (self.head_dim * (self.heads + 2 * self.kv_heads) + 2 * self.hidden) + self.hidden

    def weight_bytes(self, precision: str) -> int:
        """Bytes on the GPU: linear weights in ``precision``, embedding and lm_head in BF16 (quantizers leave both)."""
        tables = self.embedding_parameters * (1 if self.tied else 2) + self.small_parameters
        scales = 0 if precision in ("bf16", "fp32") else 4 * self.linear_parameters // self.hidden
        wide = 4 if precision == "fp32" else 2
        return int(self.linear_parameters * BYTES[precision]) + scales + tables * wide

    def decode_bytes(self, precision: str) -> int:
        """Bytes of weights read for one decode step: all but the embedding table, of which one row is read."""
        untouched = 0 if self.tied else self.embedding_parameters * (4 if precision == "fp32" else 2)
        return self.weight_bytes(precision) - untouched

    def kv_bytes_per_token(self, kv_dtype: str) -> int:
        """K and V of one token in all layers."""
        return int(2 * self.layers * self.kv_heads * self.head_dim * BYTES[kv_dtype])


def from_config(config: dict[str, Any], name: str) -> ModelShape:
    """Raises ``BuildError`` that names the missing field or the architecture that is not Qwen2."""
    architectures = config.get("architectures") or ["?"]
    if config.get("model_type") != "qwen2":
        raise BuildError(
            f"{name} is {architectures[0]} ({config.get('model_type')!r}): only Qwen2/Qwen2.5 models are known"
        )
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            name=name,
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config["num_key_value_heads"]),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            native_context=_native_context(config),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"config.json of {name} is incomplete or damaged ({type(error).__name__}: {error})") from error


def _native_context(config: dict[str, Any]) -> int:
    scaling = config.get("rope_scaling") or {}
    return int(scaling.get("original_max_position_embeddings") or config["max_position_embeddings"])


def load(model: str) -> ModelShape:
    """A directory, a ``config.json`` or a hub id. The default model needs no network; others fetch one small file."""
    return from_config(load_config(model), _short_name(model))


def load_config(model: str) -> dict[str, Any]:
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return _read(path)
    if model.lower() in SHIPPED:
        return _read(SHIPPED[model.lower()])
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise BuildError(f"no model at {model!r}: pass a directory with config.json, the file itself, or a hub id")
    return _read(_fetch_config(model))


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read ({error}): pass a model directory or its config.json") from error
    if not isinstance(config, dict):
        raise BuildError(f"{path} is not a model configuration")
    return config


def _fetch_config(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(f"config.json of {model!r} cannot be fetched ({reason}): pass a local config.json") from error


def _short_name(model: str) -> str:
    path = Path(model)
    return path.parent.name if path.name == "config.json" else path.name
