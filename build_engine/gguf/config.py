"""A GGUF file's metadata as the ``config.json`` of the Hugging Face model it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np

from build_engine.gguf.checkpoint import GgufTensors
from build_engine.gguf.header import Header
from build_engine.rope import frequencies, scaling_of, theta_of
from contract.errors import BuildError, shown
from contract.model_shape import ModelShape

# general.architecture -> Hugging Face's class
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# https://github.com/ggml-org/llama.cpp writes Llama 3's rotary scaling as divisors, made from these values
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ROPE_FACTORS = "rope_freqs.weight"
SCALING = {"linear": "linear", "yarn": "yarn"}


def config_of(header: Header, tensors: GgufTensors) -> dict[str, Any]:
    """Raises ``BuildError`` in one line for architectures and variants that the graph cannot compute."""
    arch = header.architecture
    if arch not in ARCHITECTURES:
        raise BuildError(
            f"{header.files[0]} has the architecture {arch!r}; only {', '.join(ARCHITECTURES)} can be built"
        )
    _refuse_variants(header)
    heads = _number(header, "attention.head_count")
    hidden = _number(header, "embedding_length")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[arch]],
        "model_type": arch,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _number(header, "feed_forward_length"),
        "num_hidden_layers": _number(header, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(header, "attention.head_count_kv", heads),
        "head_dim": _number(header, "attention.key_length", hidden // max(heads, 1)),
        "rms_norm_eps": _real(header, "attention.layer_norm_rms_epsilon"),
        "rope_theta": _real(header, "rope.freq_base", 10000.0),
        "max_position_embeddings": _number(header, "context_length"),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "vocab_size": tensors.shape("model.embed_tokens.weight")[0],
    }
    if arch != "qwen2":
        config["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in tensors
        config["mlp_bias"] = "model.layers.0.mlp.gate_proj.bias" in tensors
    rotated = _number(header, "rope.dimension_count", config["head_dim"])
    if rotated != config["head_dim"]:
        raise BuildError(f"{header.files[0]}: {rotated} of {config['head_dim']} dimensions rotate: not supported")
    try:
        ModelShape.of(config)
    except ValueError as error:
        raise BuildError(f"{header.files[0]}: {error}: convert it again") from None
    theta_of(config)
    scaling = _rope_scaling(header, tensors, config)
    return {**config, "rope_scaling": scaling} if scaling else config


def _refuse_variants(header: Header) -> None:
    experts = _number(header, "expert_count", 0)
    if experts:
        raise BuildError(f"{header.files[0]} is a mixture of {experts} experts: only dense models can be built")
    window = _number(header, "attention.sliding_window", 0)
    if window:
        raise BuildError(f"{header.files[0]}: its attention slides over {window} tokens: not supported")


def _get(header: Header, key: str, default: Any = None) -> Any:
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if value is None:
        raise BuildError(f"{header.files[0]} lacks the metadata {header.architecture}.{key}: convert it again")
    return value


def _number(header: Header, key: str, default: int | None = None) -> int:
    value = _get(header, key, default)
    if isinstance(value, list):  # one for each layer
        if len(set(value)) != 1:
            raise BuildError(f"{header.files[0]}: {header.architecture}.{key} differs from layer to layer: unsupported")
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int):
        raise BuildError(f"{header.files[0]}: {header.architecture}.{key} is {shown(value)}, not a whole number")
    return value


def _real(header: Header, key: str, default: float | None = None) -> float:
    """A float32 as it was written before: 1e-05, not 9.99999974e-06."""
    value = _get(header, key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BuildError(f"{header.files[0]}: {header.architecture}.{key} is {shown(value)}, not a number")
    return _short(value)


def _short(value: float) -> float:
    return float(f"{value:.7g}")


def _rope_scaling(header: Header, tensors: GgufTensors, config: dict[str, Any]) -> dict[str, Any] | None:
    if ROPE_FACTORS in header.tensors:
        return _llama3(header, tensors, config)
    kind = str(_get(header, "rope.scaling.type", "linear"))  # llama.cpp's default, with a factor of 1 or of older files
    factor = _real(header, "rope.scaling.factor", _real(header, "rope.scale_linear", 0.0))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind not in SCALING:
        raise BuildError(f"{header.files[0]}: rope scaling {kind!r} is not supported: use linear, yarn or none")
    if (attention := _real(header, "rope.scaling.attn_factor", 1.0)) != 1.0:
        raise BuildError(f"{header.files[0]}: rope.scaling.attn_factor {attention:g} is not supported, only 1")
    original = _number(header, "rope.scaling.original_context_length", 0)
    scaling = {"rope_type": SCALING[kind], "factor": factor}
    scaling |= {"original_max_position_embeddings": original} if original else {}
    for theirs, ours in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        scaling |= {ours: value} if (value := _real(header, f"rope.scaling.{theirs}", 0.0)) else {}
    return scaling_of({"rope_scaling": scaling})


def _llama3(header: Header, tensors: GgufTensors, config: dict[str, Any]) -> dict[str, Any]:
    """The scaling whose frequencies the file's divisors give."""
    divisors = tensors.plain(ROPE_FACTORS)
    scaling = {"rope_type": "llama3", "factor": _short(float(divisors.max())), **LLAMA3}
    plain, _ = frequencies(config, config["head_dim"])
    expected, _ = frequencies({**config, "rope_scaling": scaling}, config["head_dim"])
    if divisors.shape != plain.shape or not np.allclose(plain / divisors, expected, rtol=1e-4):
        raise BuildError(f"{header.files[0]}: {ROPE_FACTORS} is not Llama 3's scaling: not supported")
    return scaling
