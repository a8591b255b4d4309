"""The one model shape: sizes and bytes of Qwen2.5-7B, and what a damaged config says."""

from __future__ import annotations

import json

import pytest

from contract.model_shape import ModelShape
from contract.paths import ROOT

CONFIG = json.loads((ROOT / "build_engine/data/qwen2.5-7b-instruct.config.json").read_text())


def test_the_shape_of_qwen_7b() -> None:
    shape = ModelShape.of(CONFIG, "7b")
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (28, 3584, 28, 4, 128)
    assert (shape.native_context, shape.tied, shape.qkv_bias) == (32768, False, True)
    parameters = shape.linear_parameters + 2 * shape.embedding_parameters + shape.small_parameters
    assert parameters == 7_615_616_512  # what the model card's 7.61B stands for


def test_kv_of_one_token_is_56_kib_in_bf16() -> None:
    shape = ModelShape.of(CONFIG)
    assert shape.kv_bytes_per_token("bf16") == 57_344
    assert shape.kv_bytes_per_token("fp8") == shape.kv_bytes_per_token("int8") == 28_672


def test_yarn_does_not_change_the_native_context() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert ModelShape.of(CONFIG | {"max_position_embeddings": 131072, "rope_scaling": scaling}).native_context == 32768


def test_biases_of_other_architectures_are_the_configs_word() -> None:
    llama = CONFIG | {"model_type": "llama"}
    assert ModelShape.of(llama).qkv_bias is False
    assert ModelShape.of(llama | {"attention_bias": True}).qkv_bias is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("vocab_size", "many"),
        ("rms_norm_eps", []),
        ("rms_norm_eps", float("nan")),
        ("head_dim", 23),
        ("num_hidden_layers", 0),
        ("num_key_value_heads", 3),
        ("tie_word_embeddings", "no"),
        ("max_position_embeddings", -1),
        ("rope_scaling", [1]),
    ],
)
def test_a_damaged_config_is_one_line(key: str, value: object) -> None:
    with pytest.raises(ValueError, match="incomplete or damaged") as caught:
        ModelShape.of(CONFIG | {key: value})
    assert "\n" not in str(caught.value)
