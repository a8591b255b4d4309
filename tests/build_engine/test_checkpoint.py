"""Reading safetensors, and every way a checkpoint can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from build_engine.checkpoint import INDEX, Checkpoint, bf16_to_float32, require_layout, require_whole, weight_files
from build_engine.synthetic import checkpoint as synthetic
from contract.errors import BuildError
from tests.oracle import tiny

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
        ({k: v for k, v in CONFIG.items() if k != "num_hidden_layers"}, "no num_hidden_layers"),
        ({**CONFIG, "use_sliding_window": True}, "sliding-window"),
        ({**CONFIG, "hidden_act": "gelu"}, "only silu"),
        ({**CONFIG, "architectures": [[]]}, r"architectures is \[\[\]\]"),
        ({**CONFIG, "model_type": "mistral"}, "model_type 'mistral' is not that of Qwen2ForCausalLM"),
        ({**CONFIG, "layer_types": ["chunked_attention"]}, "only full_attention"),
        ({**CONFIG, "rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({**CONFIG, "rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "for each kind of layer"),
        ({**CONFIG, "tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', neither true nor false"),
        ({**CONFIG, "num_key_value_heads": 3}, "4 num_attention_heads are not a multiple of 3"),
        ({**CONFIG, "rope_scaling": {"type": "yarn"}}, "factor of its rope_scaling"),
        ({**CONFIG, "quantization_config": {"quant_method": "awq", "bits": 4}}, r"already quantized \(AWQ, 4 bit\)"),
        ({**CONFIG, "quantization_config": {"quant_method": "own"}}, "not known here .*'own'"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        Checkpoint(write(tmp_path, config=config))


@pytest.mark.parametrize("first", [4, 28, None])
def test_a_sliding_window_counts_only_where_a_layer_has_it(tmp_path: Path, first: int | None) -> None:
    config = {**CONFIG, "use_sliding_window": True, "max_window_layers": first}
    if first is not None:  # the model has 4 layers
        assert Checkpoint(write(tmp_path, {"a": np.ones(1, np.float32)}, config)).names == ["a"]
        return
    with pytest.raises(BuildError, match="sliding-window"):
        Checkpoint(write(tmp_path, config=config))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"t1": "model-1.safetensors", "t3": "model-1.safetensors"}, r"model-1\.safetensors lacks t3, which .* places"),
        ({"t1": "../model-1.safetensors"}, "names no files beside it"),
        ({"t1": 5}, "names no files beside it"),
        ({}, "names no files beside it"),
        ([1], "names no files beside it"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    write(tmp_path)
    save_file({"t1": np.ones(1, np.float32)}, tmp_path / "model-1.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BuildError, match=message):
        Checkpoint(tmp_path)


def test_one_whole_file_wins_over_an_index_as_in_transformers(tmp_path: Path) -> None:
    write(tmp_path, {"whole": np.ones(1, np.float32)})
    save_file({"part": np.ones(1, np.float32)}, tmp_path / "model-1.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"part": "model-1.safetensors"}}))
    assert Checkpoint(tmp_path).names == ["whole"]


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("a", "b"):
        save_file({"t": np.ones(1, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(BuildError, match=r"b\.safetensors holds t again"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {"data_offsets": [-100, 284], "shape": [96], "dtype": "F32"},
        {"data_offsets": [384, 0], "shape": [96], "dtype": "F32"},
        {"data_offsets": [0, 384], "shape": [95], "dtype": "F32"},
        {"data_offsets": [0, 384], "shape": "abc", "dtype": "F32"},
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, entry: Any) -> None:
    path = write(tmp_path) / "model.safetensors"
    header = json.dumps({"t": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(384))
    with pytest.raises(BuildError, match="truncated or damaged"):
        Checkpoint(tmp_path)


def test_files_of_any_type_can_be_checked_for_their_length(tmp_path: Path) -> None:
    save_file({"packed": np.ones(8, np.int32)}, tmp_path / "model.safetensors")
    require_whole(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(BuildError, match="truncated or damaged"):
        require_whole(tmp_path)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_whole_checkpoint_has_the_tensors_of_its_config(tmp_path: Path, name: str) -> None:
    require_layout(Checkpoint(tiny.write(name, tmp_path / "m")), "m")


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        (
            {},
            {Q: np.ones((40, 96))},
            r"q_proj\.weight has the shape \[40, 96\], by its configuration it must be \[96, 96\]",
        ),
        ({}, {Q.replace("weight", "bias"): np.ones(96)}, r"holds .*q_proj\.bias, which no LlamaForCausalLM"),
        ({}, {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(12)}, ""),
        ({"num_hidden_layers": 1}, {}, r"holds model\.layers\.1\.input_layernorm\.weight and 8 more"),
        ({"num_hidden_layers": 3}, {}, r"no tensor model\.layers\.2\.input_layernorm\.weight: .* incomplete"),
        ({"vocab_size": 600}, {}, r"embed_tokens\.weight has the shape \[512, 96\], .* \[600, 96\]"),
        (
            {},
            {"lm_head.weight": None},
            r"no tensor lm_head\.weight, and tie_word_embeddings is not true",
        ),
        ({"tie_word_embeddings": True}, {}, ""),
    ],
)
def test_weights_of_another_checkpoint_are_refused(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    given = {**tiny.COMMON, **tiny.CONFIGS["llama"]}
    held = {**tiny.tensors(given), **tensors}
    whole = {name: value.astype(np.float32) for name, value in held.items() if value is not None}
    checkpoint = Checkpoint(write(tmp_path, whole, {**given, **config}))
    if not message:
        require_layout(checkpoint, "m")
        return
    with pytest.raises(BuildError, match=message):
        require_layout(checkpoint, "m")


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


def test_an_engine_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{}")
    with pytest.raises(BuildError, match=r"is an engine, not a checkpoint: serve it with make serve ENGINE=/"):
        weight_files(tmp_path)
