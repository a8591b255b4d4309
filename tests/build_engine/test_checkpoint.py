"""Reading safetensors, and every way a checkpoint can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from build_engine.checkpoint import INDEX, Checkpoint, bf16_to_float32
from build_engine.synthetic import checkpoint as synthetic
from contract.errors import BuildError

CONFIG = synthetic.config(synthetic.SHAPES["synthetic"])


def write(directory: Path, tensors: dict[str, Any] | None = None, config: Any = CONFIG) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if tensors:
        save_file(tensors, directory / "model.safetensors")
    return directory


def test_reads_what_the_reference_library_wrote(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.linspace(-1, 1, 2048, dtype=np.float16).reshape(2, 1024),
    }
    read = Checkpoint(write(tmp_path, tensors))
    assert read.names == ["a", "b"] and "c" not in read and read.lossless_bytes == 48 + 4096
    np.testing.assert_array_equal(read.float32("a", 1, 3), tensors["a"][1:])
    np.testing.assert_array_equal(read.float32("b"), tensors["b"].astype(np.float32))
    read.forget("b")
    np.testing.assert_array_equal(read.raw("b"), tensors["b"])


def test_bf16_is_the_upper_half_of_float32() -> None:
    values = np.array([1.0, -2.5, 3.140625, 0.0], np.float32)
    np.testing.assert_array_equal(bf16_to_float32((values.view(np.uint32) >> 16).astype(np.uint16)), values)


def test_shards_follow_the_index(tmp_path: Path) -> None:
    write(tmp_path)
    for number in (1, 2):
        save_file({f"t{number}": np.ones(number, np.float32)}, tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {"t1": "model-1.safetensors", "t2": "model-2.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert Checkpoint(tmp_path).names == ["t1", "t2"]
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(BuildError, match=r"lacks 1 of 2 shards \(model-2"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "only Qwen2ForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM"),
        ({}, "architectures is None"),
        ([], "not a model's configuration"),
        ({k: v for k, v in CONFIG.items() if k != "num_hidden_layers"}, "KeyError: 'num_hidden_layers'"),
        ({**CONFIG, "use_sliding_window": True}, "sliding-window"),
        ({**CONFIG, "hidden_act": "gelu"}, "only silu"),
        ({**CONFIG, "quantization_config": {"quant_method": "awq", "bits": 4}}, r"already quantized \(AWQ, 4 bit\)"),
        ({**CONFIG, "quantization_config": {"quant_method": "own"}}, "not known here .*'own'"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        Checkpoint(write(tmp_path, config=config))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no config.json"):
        Checkpoint(tmp_path)
    write(tmp_path)
    with pytest.raises(BuildError, match=r"no \*.safetensors"):
        Checkpoint(tmp_path)
    save_file({"a": np.ones(1000, np.float32)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for cut in (b"", whole[:4], whole[:40], whole[:-1]):
        (tmp_path / "model.safetensors").write_bytes(cut)
        with pytest.raises(BuildError, match="truncated or damaged"):
            Checkpoint(tmp_path)
    save_file({"a": np.ones(4, np.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(BuildError, match="a is I64"):
        Checkpoint(tmp_path)


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no tensor model\.norm\.weight"):
        Checkpoint(write(tmp_path, {"a": np.ones(1, np.float32)})).float32("model.norm.weight")
