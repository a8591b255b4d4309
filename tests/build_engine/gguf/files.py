"""Write GGUF files as llama.cpp's converter does: its names, its order of rotary rows, its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from build_engine.gguf.checkpoint import BLOCK, WHOLE
from contract.byte_alphabet import CHARACTERS
from tests.oracle import tiny


def write(
    path: Path, config: dict[str, Any], tensors: dict[str, npt.NDArray[np.float32]], kind: Kind = Kind.F32,
    metadata: dict[str, Any] | None = None, divisors: npt.NDArray[np.float32] | None = None, **options: Any,
) -> Path:  # fmt: skip
    """``tensors`` by Hugging Face's names; matrices become ``kind``. ``options`` go to ``GGUFWriter``."""
    arch = config["model_type"]
    writer = gguf.GGUFWriter(path, (metadata or {}).get("general.architecture", arch), **options)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    given = {
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": config["num_attention_heads"],
        f"{arch}.attention.head_count_kv": config["num_key_value_heads"],
        f"{arch}.attention.key_length": head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{arch}.rope.dimension_count": head_dim,
        f"{arch}.rope.freq_base": config["rope_theta"],
    }
    for key, value in (vocabulary() | given | (metadata or {})).items():
        if key != "general.architecture":
            _add(writer, key, value)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    for name, tensor in tensors.items():
        wanted = kind if tensor.ndim == 2 else Kind.F32
        data = gguf.quants.quantize(permuted(name, tensor, config), wanted)
        writer.add_tensor(gguf_name(name), data, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_string(key, value)


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    whole = {theirs: ours for ours, theirs in WHOLE.items()}
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    _, _, layer, *rest = stem.split(".")
    return f"blk.{layer}.{ {theirs: ours for ours, theirs in BLOCK.items()}['.'.join(rest)] }.{kind}"


def permuted(name: str, tensor: npt.NDArray[np.float32], config: dict[str, Any]) -> npt.NDArray[np.float32]:
    """As ``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if config["model_type"] != "llama" or heads is None:
        return tensor
    count = config[heads]
    halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def vocabulary() -> dict[str, Any]:
    """A small byte-level vocabulary: all bytes, one merge, special tokens at both ends."""
    words = ["<s>", "</s>", *CHARACTERS, "he"]
    rest = [f"<|extra_{i}|>" for i in range(tiny.VOCAB - len(words))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*words, *rest],
        "tokenizer.ggml.token_type": [3, 3, *[1] * (len(words) - 2), *[3] * len(rest)],
        "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
