"""The decoders that the graph computes, and where they differ: biases, norms of queries and keys.

All have RMSNorm before attention and MLP, rotary positions in halves, grouped-query attention and a SwiGLU MLP.
Sources: https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models (qwen2, llama, qwen3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contract.errors import BuildError, shown
from contract.model_shape import ModelShape, flag

QKV = frozenset({"q_proj", "k_proj", "v_proj"})
ATTENTION = QKV | {"o_proj"}
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})


@dataclass(frozen=True, slots=True)
class Architecture:
    """``always``: the projections with a bias; a key of ``flags`` is a config field that adds biases to its value."""

    model_type: str
    always: frozenset[str] = frozenset()
    flags: tuple[tuple[str, frozenset[str]], ...] = ()
    qk_norm: bool = False  # RMSNorm over each head's query and key, before the rotation

    def biases(self, config: Mapping[str, Any]) -> frozenset[str]:
        """The projections that have a bias in a checkpoint with this ``config.json``."""
        return self.always.union(*(names for flag, names in self.flags if config.get(flag)))


ARCHITECTURES = {
    "Qwen2ForCausalLM": Architecture("qwen2", always=QKV),
    "LlamaForCausalLM": Architecture("llama", flags=(("attention_bias", ATTENTION), ("mlp_bias", MLP))),
    "Qwen3ForCausalLM": Architecture("qwen3", flags=(("attention_bias", ATTENTION),), qk_norm=True),
}


def architecture_of(config: Mapping[str, Any], where: object) -> Architecture:
    """The row for ``config``; ``where`` names the file. Raises ``BuildError`` for what the graph cannot compute."""
    found = config.get("architectures")
    known = [name for name in ARCHITECTURES if name in found] if isinstance(found, list) else []
    if not known:
        raise BuildError(f"{where}: architectures is {found!r}; only {', '.join(ARCHITECTURES)} can be built")
    architecture = ARCHITECTURES[known[0]]
    if (kind := config.get("model_type", architecture.model_type)) != architecture.model_type:
        raise BuildError(f"{where}: model_type {kind!r} is not that of {known[0]}, {architecture.model_type!r}")
    if config.get("hidden_act", "silu") != "silu":
        raise BuildError(f"{where}: hidden_act {config['hidden_act']!r} is not supported, only silu")
    if _slides(config):
        raise BuildError(f"{where}: sliding-window attention is not supported: use a checkpoint with full attention")
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise BuildError(f"{where}: layer_types is {shown(kinds)}; only full_attention is supported")
    for place in (config, config.get("rope_parameters") or {}):
        if isinstance(place, Mapping) and (part := place.get("partial_rotary_factor")) not in (None, 1):
            raise BuildError(f"{where}: partial_rotary_factor {part!r} is not supported: whole heads rotate")
    try:
        for name, _ in architecture.flags:
            flag(config, name)
    except ValueError as error:
        raise BuildError(f"{where}: {error}") from None
    return architecture


def _slides(config: Mapping[str, Any]) -> bool:
    """Whether any layer has a window: those from ``max_window_layers`` on, as transformers reads it."""
    layers, first = config.get("num_hidden_layers"), config.get("max_window_layers")
    every_layer_is_full = isinstance(layers, int) and isinstance(first, int) and first >= layers
    return bool(config.get("use_sliding_window")) and not every_layer_is_full


def layout(shape: ModelShape, biases: frozenset[str], qk_norm: bool = False) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of such a decoder, in the order of a checkpoint file."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = {"q_proj": (queries, shape.hidden), "k_proj": (keys, shape.hidden), "v_proj": (keys, shape.hidden),
                 "o_proj": (shape.hidden, queries)}  # fmt: skip
    mlp = {"gate_proj": (shape.intermediate, shape.hidden), "up_proj": (shape.intermediate, shape.hidden),
           "down_proj": (shape.hidden, shape.intermediate)}  # fmt: skip
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (shape.hidden,)
        yield prefix + "post_attention_layernorm.weight", (shape.hidden,)
        for block, linears in (("self_attn", attention), ("mlp", mlp)):
            for name, size in linears.items():
                yield f"{prefix}{block}.{name}.weight", size
                if name in biases:
                    yield f"{prefix}{block}.{name}.bias", size[:1]
        for name in ("q_norm", "k_norm") if qk_norm else ():
            yield f"{prefix}self_attn.{name}.weight", (shape.head_dim,)
    yield "model.norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)
