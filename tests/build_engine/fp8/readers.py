"""What loads our FP8 checkpoint, from the loaders' sources: each field and tensor that is read, and what it must be.

A reader returns what it understood, or raises ``Refused`` where the loader raises, would cast a tensor without a word,
or would leave one out. vLLM 0.24 to 0.33: ``modelopt.py``, ``weight_utils.py``, ``models/qwen2.py`` of the wheels.
TensorRT-LLM 1.2: ``_torch/model_config.py`` and ``_torch/modules/linear.py`` (docs/tensorrt_llm_facts.md).
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
PARTS = {part: whole for whole, parts in JOINED.items() for part in parts}
MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Understood:
    """``layers`` have FP8 weights and static scales; ``kv`` is the type of the KV cache, None for the model's own."""

    layers: frozenset[str]
    excluded: tuple[str, ...]
    kv: str | None


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]


def tensors(directory: Path) -> dict[str, Tensor]:
    """Through the safetensors library, which both loaders use, and the index: a tensor is where it says."""
    found: dict[str, Tensor] = {}
    index = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if index.get(name) != path.name:
                    raise Refused(f"{name} is in {path.name}, the index says {index.get(name)}")
                part = file.get_slice(name)
                found[name] = Tensor(part.get_dtype(), tuple(part.get_shape()))
    if set(found) != set(index):
        raise Refused(f"the index names {set(index) ^ set(found)}")
    return found


def vllm(directory: Path) -> Understood:
    config = _json(directory / "config.json")
    given = config.get("quantization_config") or _json(directory / "hf_quant_config.json")
    settings = vllm_settings(given)
    return _loaded(directory, config, *settings)


def vllm_settings(given: dict[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """``ModelOptQuantConfigBase.from_config``, ``ModelOptFp8Config.override_quantization_method`` and
    ``get_kv_cache_quant_algo_string``."""
    if "quantization" in given:
        if given.get("producer", {}).get("name") != "modelopt":
            raise Refused("Unsupported quantization config")
        inner = given["quantization"]
        kv, excluded = inner.get("kv_cache_quant_algo"), inner.get("exclude_modules", [])
    else:
        if not given.get("quant_method", "").lower().startswith("modelopt"):
            raise Refused("not a modelopt config")
        inner = given
        scheme = given.get("kv_cache_scheme")
        if scheme is not None and (scheme["dynamic"], scheme["num_bits"], scheme["type"]) != (False, 8, "float"):
            raise Refused(f"Unknown kv_cache_quant_algo {scheme}")
        kv, excluded = "FP8" if scheme else None, given.get("ignore", [])
    if str(inner.get("quant_algo")).upper() != "FP8":
        raise Refused(f"quant_algo {inner.get('quant_algo')}")
    if not isinstance(excluded, list):
        raise Refused("exclude_modules must be a list")
    return tuple(excluded), kv


def tensorrt_llm(directory: Path) -> Understood:
    """``ModelConfig.load_modelopt_quant_config``; without the file the weights would be taken as unquantized."""
    told = _json(directory / "hf_quant_config.json")["quantization"]
    if told.get("quant_algo") != "FP8":  # compared with the enumeration as it is written
        raise Refused(f"quant_algo {told.get('quant_algo')}")
    if told.get("kv_cache_quant_algo") not in (None, "FP8"):
        raise Refused(f"kv_cache_quant_algo {told.get('kv_cache_quant_algo')}")
    excluded = tuple(told.get("exclude_modules") or ())
    return _loaded(directory, _json(directory / "config.json"), excluded, told.get("kv_cache_quant_algo"))


def _loaded(directory: Path, config: dict[str, Any], excluded: tuple[str, ...], kv: str | None) -> Understood:
    """Both make the same parameters of an FP8 linear map and stop at a missing one; a name that is not theirs is left
    out without a word, which would be a scale lost."""
    left = tensors(directory)
    layers = set()
    for name in sorted(_linear_maps(config)):
        whole = name if (part := name.rpartition(".")[2]) not in PARTS else f"{name[: -len(part)]}{PARTS[part]}"
        weight = _take(left, f"{name}.weight")
        if any(fnmatch.fnmatch(whole, pattern) for pattern in excluded):
            continue
        _demand(name, weight, "F8_E4M3", _shape(config, name.rpartition(".")[2]))
        for scale in ("weight_scale", "input_scale"):
            found = _take(left, f"{name}.{scale}")
            _demand(f"{name}.{scale}", found, "F32", ())  # PerTensorScaleParameter; ``reshape([])``
        layers.add(whole)
    for name in [name for name in left if re.search(r"\.self_attn\.([kv])_proj\.\1_scale$", name)]:
        _demand(name, _take(left, name), "F32", ())
    rest = [name for name in left if not re.search(r"(norm|embed_tokens)\.weight$|_proj\.bias$", name)]
    if rest:
        raise Refused(f"nobody reads {rest}")
    return Understood(frozenset(layers), excluded, kv)


def _linear_maps(config: dict[str, Any]) -> list[str]:
    blocks = [f"model.layers.{number}" for number in range(config["num_hidden_layers"])]
    maps = [f"{block}.{'mlp' if name in MAPS[4:] else 'self_attn'}.{name}" for block in blocks for name in MAPS]
    return maps if config.get("tie_word_embeddings") else [*maps, "lm_head"]


def _shape(config: dict[str, Any], name: str) -> tuple[int, int]:
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    queries, keys = heads * dim, config["num_key_value_heads"] * dim
    return {
        "q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden), "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner),
        "lm_head": (config["vocab_size"], hidden),
    }[name]  # fmt: skip


def _take(left: dict[str, Tensor], name: str) -> Tensor:
    if name not in left:
        raise Refused(f"{name} is missing")
    return left.pop(name)


def _demand(name: str, found: Tensor, dtype: str, shape: tuple[int, ...]) -> None:
    if found != Tensor(dtype, shape):
        raise Refused(f"{name} is {found}, not {dtype} {shape}")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Refused(f"{path.name} is missing")
    return json.loads(path.read_text())
