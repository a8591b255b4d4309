"""The decoders that the graph computes, and where they differ: biases, norms of queries and keys.

All have RMSNorm before attention and MLP, rotary positions in halves, grouped-query attention and a SwiGLU MLP.
Sources: https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models (qwen2, llama, qwen3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.errors import BuildError

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
    known = [name for name in found if name in ARCHITECTURES] if isinstance(found, list) else []
    if not known:
        raise BuildError(f"{where}: architectures is {found!r}; only {', '.join(ARCHITECTURES)} can be built")
    if config.get("hidden_act", "silu") != "silu":
        raise BuildError(f"{where}: hidden_act {config['hidden_act']!r} is not supported, only silu")
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        raise BuildError(f"{where}: sliding-window attention is not supported: use a checkpoint with full attention")
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise BuildError(
            f"{where}: partial_rotary_factor {config['partial_rotary_factor']} is not supported: whole heads rotate"
        )
    return ARCHITECTURES[known[0]]
