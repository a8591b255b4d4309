"""A model as the GGUF file that llama.cpp computes with: Q8_0, 8 bits per weight as the INT8 engine has, or Q4_0 beside
tables of the vocabulary in Q8_0, as INT4 engines have them.

Vectors stay FP32. llama.cpp wants the rows of a ``llama`` model's queries and keys in its own rotary order.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

from build_engine.architectures import architecture_of
from build_engine.gguf.checkpoint import BLOCK, WHOLE
from build_engine.rope import scaling_of, theta_of
from build_engine.source import Source
from contract.errors import BuildError
from contract.model_shape import ModelShape

KINDS = {"int8": "Q8_0", "int4": "Q4_0"}  # by our precision of as many bits
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
NAMES = {theirs: ours for ours, theirs in (WHOLE | BLOCK).items()}


def write(source: Source, path: Path, precision: str) -> None:
    """``precision``: one of ``KINDS``. Raises ``BuildError`` for rotary scaling, which this does not translate."""
    config, shape = source.config, ModelShape.of(source.config)
    if scaling_of(config):
        raise BuildError("rope_scaling is not translated to GGUF: benchmark a model without it")
    architecture = architecture_of(config, "config.json").model_type
    writer = GGUFWriter(path, architecture, use_temp_file=True)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(theta_of(config))
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    _add_tokenizer(writer, source)
    tensors = source.tensors(config)
    for name in tensors.names:
        values = tensors.float32(name)
        part = name.split(".")[-2]
        if architecture == "llama" and part in ("q_proj", "k_proj"):
            values = interleaved(values, shape.heads if part == "q_proj" else shape.kv_heads)
        if values.ndim == 2:
            kind = GGMLQuantizationType[KINDS["int8" if name in TABLES else precision]]
            writer.add_tensor(gguf_name(name), quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` → ``blk.3.ffn_up.weight``."""
    stem, _, kind = name.rpartition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def interleaved(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Each head's first and second half of rows, taken in turn."""
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2)).reshape(rows.shape)


def _add_tokenizer(writer: GGUFWriter, source: Source) -> None:
    """llama.cpp loads no model without one. Its splitting of text does not matter: prompts are token ids."""
    with tempfile.TemporaryDirectory() as scratch:
        source.write_tokenizer(Path(scratch))
        tokenizer = json.loads((Path(scratch) / "tokenizer.json").read_text(encoding="utf-8"))
    size = int(source.config["vocab_size"])
    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [TokenType.UNUSED] * size
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], TokenType.CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
