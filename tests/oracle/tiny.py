"""Tiny checkpoints with random weights, one for each architecture and each way in which they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

VOCAB = 512
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
COMMON = {
    "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": True},
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 4},
    "llama-biases-llama3": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": True, "mlp_bias": True,
        "rope_scaling": LLAMA3, "head_dim": 16,
    },
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32, "num_key_value_heads": 1},
    "qwen3-biases": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "attention_bias": True,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


def write(name: str, directory: Path) -> Path:
    """The checkpoint ``name`` of ``CONFIGS`` in ``directory``: config and float32 weights, no tokenizer."""
    directory.mkdir(parents=True)
    config = COMMON | CONFIGS[name]
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors(config), directory / "model.safetensors", {"format": "pt"})
    return directory


def tensors(config: dict[str, Any], seed: int = 11) -> dict[str, npt.NDArray[np.float32]]:
    """Loud layers: an answer then depends on the whole context and does not repeat itself."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim

    def normal(*shape: int, std: float) -> npt.NDArray[np.float32]:
        return rng.normal(0, std, shape).astype(np.float32)

    def norm(size: int) -> npt.NDArray[np.float32]:
        return 1 + normal(size, std=0.2)

    made = {
        "model.embed_tokens.weight": normal(config["vocab_size"], hidden, std=0.3),
        "model.norm.weight": norm(hidden),
    }
    attention = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
    }
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    biased: set[str] = set()
    if config["model_type"] == "qwen2":
        biased = {"q_proj", "k_proj", "v_proj"}
    if config.get("attention_bias"):
        biased |= set(attention)
    if config.get("mlp_bias"):
        biased |= set(mlp)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        made[prefix + "input_layernorm.weight"] = norm(hidden)
        made[prefix + "post_attention_layernorm.weight"] = norm(hidden)
        if config["model_type"] == "qwen3":
            made[prefix + "self_attn.q_norm.weight"] = norm(dim)
            made[prefix + "self_attn.k_norm.weight"] = norm(dim)
        for block, shapes in (("self_attn", attention), ("mlp", mlp)):
            for name, shape in shapes.items():
                made[f"{prefix}{block}.{name}.weight"] = normal(*shape, std=2 / shape[1] ** 0.5)
                if name in biased:
                    made[f"{prefix}{block}.{name}.bias"] = normal(shape[0], std=0.3)
    if not config["tie_word_embeddings"]:
        made["lm_head.weight"] = normal(config["vocab_size"], hidden, std=0.3)
    return made


def prompts(count: int = 6) -> list[list[int]]:
    rng = np.random.default_rng(2)
    return [rng.integers(2, VOCAB, rng.integers(3, 90)).tolist() for _ in range(count)]
