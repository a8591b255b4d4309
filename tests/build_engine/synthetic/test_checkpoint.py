"""The synthetic checkpoint: complete, the same every time, and as quiet about special tokens as it promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from build_engine import tokenizer_files
from build_engine.checkpoint import Checkpoint
from build_engine.synthetic import checkpoint as synthetic
from build_engine.synthetic.checkpoint import SHAPES
from contract.model_shape import ModelShape

SMALL = ModelShape("small", 2, 128, 2, 1, 256, 152064, head_dim=64)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    shape = ModelShape("s", 1, 128, 2, 1, 128, 1024, head_dim=64)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic.write(shape, tmp_path / name, seed)
    data = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert data[0] == data[1] != data[2]


def test_the_reference_library_reads_it(tmp_path: Path) -> None:
    shape = ModelShape("s", 2, 128, 2, 1, 128, 1024, head_dim=64)
    synthetic.write(shape, tmp_path / "m")
    with safe_open(tmp_path / "m" / "model.safetensors", "numpy") as file:
        assert sorted(file.keys()) == sorted(name for name, _ in synthetic.layout(shape))
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [1024, 128]


def test_values_are_normal(tmp_path: Path) -> None:
    synthetic.write(SMALL, tmp_path / "m")
    checkpoint = Checkpoint(tmp_path / "m")
    gate = checkpoint.float32("model.layers.0.mlp.gate_proj.weight")
    assert abs(gate.std() * SMALL.hidden**0.5 - 1) < 0.02 and abs(gate.mean()) < 1e-3
    assert (checkpoint.float32("model.norm.weight") == 1).all()
    rows = np.linalg.norm(checkpoint.float32("model.embed_tokens.weight"), axis=1)
    assert rows[151643:].max() < rows[:151643].min() / 2


def test_default_shape_is_small() -> None:
    size = sum(2 * int(np.prod(s)) for _, s in synthetic.layout(SHAPES["synthetic"]))
    assert size < 100e6


def test_the_large_shape_is_that_of_qwen2_5_7b() -> None:
    """7,615,616,512 parameters: https://huggingface.co/Qwen/Qwen2.5-7B-Instruct"""
    assert sum(int(np.prod(s)) for _, s in synthetic.layout(SHAPES["synthetic-7b"])) == 7_615_616_512


def test_an_output_layer_of_its_own_is_written_like_the_embedding(tmp_path: Path) -> None:
    shape = dataclasses.replace(SMALL, vocab=152064, tied=False)
    synthetic.write(shape, tmp_path / "c", tokenizer=lambda _: None)
    checkpoint = Checkpoint(tmp_path / "c")
    embedding, head = (checkpoint.float32(name) for name in ("model.embed_tokens.weight", "lm_head.weight"))
    assert head.shape == embedding.shape and (head != embedding).any()


def unreachable(directory: Path) -> Path:
    raise tokenizer_files.unreachable("no network")


def test_without_a_package_index_the_words_are_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shape = ModelShape("s", 1, 128, 2, 1, 128, 152064, head_dim=64)
    monkeypatch.setitem(synthetic.SHAPES, "synthetic", shape)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tokenizer_files, "download", unreachable)
    home = synthetic.cached("synthetic")
    assert "cannot fetch dashscope" in caplog.text and "made up" in caplog.text
    assert synthetic.cached("synthetic") == home
    made = Tokenizer.from_file(str(home / "tokenizer.json"))
    text = "Hello, 世界 👋 def f(x):\n"
    assert made.decode(made.encode(text).ids) == text
    assert made.get_vocab_size() == tokenizer_files.TOKENIZER_SIZE
    assert made.token_to_id("<|im_end|>") == tokenizer_files.IM_END
    rng = np.random.default_rng(1)
    for token in rng.integers(256, tokenizer_files.END_OF_TEXT, 200):  # each can be read as well as written
        word = made.decode([int(token)])
        assert made.encode(word).ids == [int(token)] or " " in word[1:]
