"""Weights that cannot be computed with are refused by name, at every precision and from every type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from build_engine.checkpoint import Checkpoint
from build_engine.openvino import build as openvino_build
from contract.errors import BuildError
from tests.oracle import tiny

MATRIX, NORM = "model.layers.0.self_attn.k_proj.weight", "model.norm.weight"


@pytest.mark.parametrize("precision", ["int8", "int4", "bf16", "fp32"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize(("name", "value"), [(MATRIX, np.nan), (MATRIX, -np.inf), (NORM, np.nan)])
def test_what_is_not_finite_is_refused(tmp_path: Path, precision: str, kind: type, name: str, value: float) -> None:
    path = tiny.write("llama", tmp_path / "m") / "model.safetensors"
    tensors = {key: tensor.astype(kind) for key, tensor in load_file(path).items()}
    tensors[name].reshape(-1)[7] = value
    save_file(tensors, path)
    with pytest.raises(BuildError, match=f"^{name} holds NaN, infinity"):
        openvino_build.convert(Checkpoint(tmp_path / "m"), precision, tmp_path / "openvino_model.xml")


def test_a_scale_must_fit_a_float16(tmp_path: Path) -> None:
    path = tiny.write("llama", tmp_path / "m") / "model.safetensors"
    tensors = dict(load_file(path))
    tensors[MATRIX][0, 0] = 1e30
    save_file(tensors, path)
    with pytest.raises(BuildError, match="values beyond 65504"):
        openvino_build.convert(Checkpoint(tmp_path / "m"), "int8", tmp_path / "openvino_model.xml")
