"""A checkpoint with Qwen2.5's architecture and vocabulary, and random weights from a fixed seed. Its text is noise.

The weights are shaped for tests: frequent words are likelier than rare ones, special tokens are almost impossible (so
that an answer runs to ``max_tokens``), and the layers outweigh the last token's own embedding, because a random model
with tied embeddings would otherwise repeat that token forever.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine import architectures, tokenizer_files
from build_engine.checkpoint import float32_to_bf16, safetensors_head
from build_engine.staging import cache_directory, need_space, staged
from contract.model_shape import ModelShape

ONE = 0x3F80  # 1.0 in BF16
SEED = 20250101
STD = 0.02  # of Qwen2's own initializer_range
FREQUENT = 20_000  # tokens whose rank is lower are the common ones
FREQUENT_GAIN = 1.5
SILENT_GAIN = 0.05  # special tokens and rows beyond the tokenizer
# Standard deviation of a projection's output for a normalized input. The MLP is the strongest: attention over random
# keys is a mean of the context, and an answer that follows it settles on one word.
GAINS = {"q_proj": 1.0, "k_proj": 1.0, "v_proj": 1.0, "o_proj": 0.5, "gate_proj": 1.0, "up_proj": 1.0, "down_proj": 2.0}
log = logging.getLogger(__name__)


SHAPES = {
    "synthetic": ModelShape("qwen2.5-synthetic-tiny", 4, 256, 4, 2, 768, 152064, head_dim=64),
    "synthetic-0.5b": ModelShape("qwen2.5-synthetic-0.5b", 24, 896, 14, 2, 4864, 151936, head_dim=64),
    "synthetic-7b": ModelShape("qwen2.5-synthetic-7b", 28, 3584, 28, 4, 18944, 152064, head_dim=128, tied=False),
}


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("synthetic", help="write a checkpoint with random weights")
    parser.add_argument("--shape", choices=list(SHAPES), default="synthetic")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    write(SHAPES[args.shape], args.out)
    print(f"{args.out}: {SHAPES[args.shape].name}, random weights: its text is noise")


def cached(name: str) -> Path:
    """The checkpoint ``name`` of ``SHAPES``, generated now unless the cache has it."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + Path(tokenizer_files.__file__).read_bytes()).hexdigest()
    home = cache_directory() / f"{SHAPES[name].name}-{recipe[:12]}"
    if home.is_dir():
        return home
    log.info("synthetic: making %s (random weights, seed %d)", SHAPES[name].name, SEED)
    try:
        write(SHAPES[name], home)
    except tokenizer_files.NoVocabulary as error:  # its text is noise whatever the words
        log.warning("%s; until then its words are made up", error)
        home = home.with_name(f"{home.name}-made-up")
        if not home.is_dir():
            write(SHAPES[name], home, tokenizer=tokenizer_files.write_made_up)
    return home


def write(
    shape: ModelShape, out: Path, seed: int = SEED, tokenizer: Callable[[Path], None] = tokenizer_files.write
) -> None:
    """A complete checkpoint directory: config, tokenizer files and one BF16 safetensors file."""
    tensors = dict(layout(shape))
    need_space(out, sum(2 * math.prod(size) for size in tensors.values()))
    with staged(out) as directory:
        tokenizer(directory)
        tokenizer_files.dump(config(shape), directory / "config.json")
        write_weights(directory / "model.safetensors", tensors, seed)


def config(shape: ModelShape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": tokenizer_files.END_OF_TEXT,
        "eos_token_id": tokenizer_files.IM_END,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": STD,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.native_context,
        "model_type": "qwen2",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
        "synthetic": True,
    }


def layout(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, in file order."""
    return architectures.layout(shape, architectures.QKV if shape.qkv_bias else frozenset())


def write_weights(path: Path, tensors: dict[str, tuple[int, ...]], seed: int) -> None:
    """One tensor after the other, so that a 7B model needs no memory of its size. ``tensors``: name -> shape."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(safetensors_head((name, "BF16", size, 2 * math.prod(size)) for name, size in tensors.items()))
        for name, size in tensors.items():
            file.write(values(rng, name, size).tobytes())


def values(rng: np.random.Generator, name: str, size: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """One tensor's BF16 bits."""
    if "norm" in name:
        return np.full(size, ONE, np.uint16)
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return embedding(rng, size)
    projection = name.split(".")[-2]
    if name.endswith("bias"):
        return normal(rng, size, STD)
    return normal(rng, size, GAINS[projection] / size[1] ** 0.5)


def embedding(rng: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    rows, width = size
    common, speaking = min(rows, FREQUENT), min(rows, tokenizer_files.END_OF_TEXT)
    counts = (common, speaking - common, rows - speaking)
    gains = (FREQUENT_GAIN, 1.0, SILENT_GAIN)
    parts = [normal(rng, (count, width), STD * gain) for count, gain in zip(counts, gains, strict=True)]
    return np.concatenate(parts)


def normal(rng: np.random.Generator, size: tuple[int, ...], std: float) -> npt.NDArray[np.uint16]:
    """Normal values as BF16 bits, drawn by table: 16 random bits pick one of 65,536 quantiles (memory speed)."""
    table = float32_to_bf16(quantiles() * np.float32(std))
    drawn: npt.NDArray[np.uint16] = table[rng.integers(0, 1 << 16, size, np.uint16)]
    return drawn


@functools.cache
def quantiles() -> npt.NDArray[np.float32]:
    inverse = NormalDist().inv_cdf
    half = np.array([inverse((i + 0.5) / (1 << 16)) for i in range(1 << 15)], np.float32)
    return np.concatenate([half, -half[::-1]])
