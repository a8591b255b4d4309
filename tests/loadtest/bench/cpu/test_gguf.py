"""The GGUF file that llama.cpp is measured with holds our weights: our own reader gets them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engine.gguf.source import GgufSource
from loadtest.bench.cpu import gguf
from tests.build_engine.gguf import files
from tests.oracle import tiny


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize(("precision", "steps"), [("int8", 127), ("int4", 8)])
def test_weights_come_back_within_their_rounding(tmp_path: Path, name: str, precision: str, steps: int) -> None:
    config = tiny.COMMON | tiny.CONFIGS[name]
    source = GgufSource(files.write(tmp_path / "f32.gguf", config, tiny.tensors(config)))
    gguf.write(source, tmp_path / "rounded.gguf", precision)
    back = GgufSource(tmp_path / "rounded.gguf")
    for key in ("hidden_size", "num_key_value_heads", "rope_theta", "rms_norm_eps", "vocab_size", "head_dim"):
        assert back.config.get(key) == source.config.get(key)
    for tensor, values in tiny.tensors(config).items():
        read = back.tensors(back.config).float32(tensor)
        step = np.abs(values).max() / (127 if tensor in gguf.TABLES else steps) if values.ndim == 2 else 0.0
        assert np.abs(read.reshape(values.shape) - values).max() <= step, tensor  # of its block at most
