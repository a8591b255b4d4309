"""INT8 by rounding: what a loader reads back is the checkpoint within half a step of each row's scale."""

from __future__ import annotations

import json

import numpy as np

from build_engine.checkpoint import Checkpoint, bf16_to_float32, float32_to_bf16
from build_engine.synthetic import checkpoint as synthetic
from build_engine.vllm import int8

TINY = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 64, "hidden_size": 16, "head_dim": 8,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip


def tensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    kinds = {"I8": np.int8, "BF16": np.uint16, "F32": np.float32}
    del header["__metadata__"]
    return {
        name: np.frombuffer(data[8 + size :][slice(*at["data_offsets"])], kinds[at["dtype"]]).reshape(at["shape"])
        for name, at in header.items()
    }


def test_rows_are_rounded_to_their_own_scale():
    rows = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [100.0, 1.0, -127.0]], np.float32)
    values, scales = int8.rounded(rows)
    assert values.tolist()[2] == [100, 1, -127] and values.tolist()[1] == [0, 0, 0]
    assert (np.abs(values * scales - rows) <= scales / 2).all()
    assert np.array_equal(bf16_to_float32(float32_to_bf16(scales)), scales)  # as they are stored


def test_a_checkpoint_becomes_int8_except_embeddings_norms_and_biases(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "config.json").write_text(json.dumps(TINY))
    shape = synthetic.ModelShape.of(TINY)
    synthetic.write_weights(source / "model.safetensors", dict(synthetic.layout(shape)), seed=1)
    before = Checkpoint(source)
    int8.export(before, out)
    made = tensors(out / "model-00001.safetensors")
    linear = "model.layers.1.mlp.down_proj.weight"
    assert made[linear].dtype == np.int8 and made[f"{linear}_scale"].shape == (16, 1)
    scales = bf16_to_float32(made[f"{linear}_scale"])
    assert (np.abs(made[linear] * scales - before.float32(linear)) <= scales * 0.501).all()
    kept = [name for name in made if made[name].dtype == np.uint16 and not name.endswith("_scale")]
    assert {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"} <= set(kept)
    assert not any(name.endswith("_proj.weight") for name in kept)
    assert set(json.loads((out / int8.INDEX).read_text())["weight_map"]) == set(made)
