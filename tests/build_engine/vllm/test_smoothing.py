"""SmoothQuant's factors change how well INT8 represents a model, and nothing else about it."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from build_engine.checkpoint import Checkpoint, bf16_to_float32, float32_to_bf16, write_safetensors
from build_engine.vllm import int8
from tests.oracle import tiny
from tests.oracle.numpy_decoder import NumpyDecoder

pytestmark = pytest.mark.oracle
LOUD = 7  # a channel that both norms make 60 times louder, as trained models do


def source(name, directory):
    file = tiny.write(name, directory) / "model.safetensors"
    tensors = load_file(file)
    for key, value in tensors.items():
        if key.endswith("layernorm.weight"):
            value[LOUD] = 60.0
    for key, value in tensors.items():
        if key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            value[:, LOUD] /= 20
    write_safetensors(file, {key: ("BF16", float32_to_bf16(value)) for key, value in tensors.items()})
    return Checkpoint(directory)


class Comparing(NumpyDecoder):
    """Beside every product the one of INT8 weights (per row) and inputs (per token); ``errors`` by kind of map."""

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        stored = [name for name in checkpoint.names if not name.endswith("_proj.weight")]
        self.weights |= {name: bf16_to_float32(checkpoint.raw(name)) for name in stored}
        self.errors: dict[str, list[float]] = {}

    def linear(self, x, name):
        weight = self.weights[f"{name}.weight"]
        (wide, steps), (rows, scales) = int8.rounded(x), int8.rounded(weight)
        wanted, found = x @ weight.T, (wide * steps) @ (rows * scales).T
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        self.errors.setdefault(name.rpartition(".")[2], []).append(float(error))
        return super().linear(x, name)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_model_stays_and_its_products_lose_less_to_int8(name, tmp_path):
    from build_engine.vllm.smoothing import smoothed

    before = source(name, tmp_path / "m")
    after = smoothed(before, tiny.prompts())
    plain, smooth = Comparing(before), Comparing(after)
    for prompt in tiny.prompts():
        np.testing.assert_allclose(smooth.logits(prompt), plain.logits(prompt), rtol=1e-4, atol=1e-4)
    for each in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        assert np.mean(smooth.errors[each]) < 0.6 * np.mean(plain.errors[each])
    assert np.mean(smooth.errors["down_proj"]) < 1.1 * np.mean(plain.errors["down_proj"])
    assert smooth.errors["o_proj"] == pytest.approx(plain.errors["o_proj"], rel=0.05)


def test_what_is_stored_is_exact_and_only_what_takes_part_changes(tmp_path):
    from build_engine.vllm.smoothing import smoothed

    before = source("llama-biases-llama3", tmp_path / "m")
    after = smoothed(before, tiny.prompts())
    changed = {name for name in before.names if not np.array_equal(before.raw(name), after.raw(name))}
    assert {name.split(".", 3)[3].removesuffix(".weight") for name in changed} == {
        "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.up_proj.bias",
    }  # fmt: skip
    for number in range(tiny.COMMON["num_hidden_layers"]):
        norm, up, down = (
            f"model.layers.{number}.{name}" for name in ("input_layernorm", "mlp.up_proj", "mlp.down_proj")
        )
        query = f"model.layers.{number}.self_attn.q_proj.weight"
        columns = (after.float32(query) / before.float32(query))[0]
        divided = bf16_to_float32(after.raw(f"{norm}.weight"))
        np.testing.assert_allclose(divided * columns, before.float32(f"{norm}.weight"), rtol=1e-6)
        exponents = np.log2((after.float32(f"{down}.weight") / before.float32(f"{down}.weight"))[0])
        assert np.array_equal(exponents, np.rint(exponents))
        bias = bf16_to_float32(after.raw(f"{up}.bias")) * np.exp2(exponents)
        np.testing.assert_array_equal(bias, before.float32(f"{up}.bias"))
    part = after.float32("model.layers.0.mlp.up_proj.weight", 5, 9)
    assert np.array_equal(part, after.float32("model.layers.0.mlp.up_proj.weight")[5:9])


def test_a_channel_that_is_always_zero_is_left_alone():
    import torch

    from build_engine.vllm.smoothing import factors

    found = factors(torch.tensor([0.0, 100.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert found.tolist() == [1.0, 1.0, 1.0]
    found = factors(torch.tensor([64.0, 1.0]), torch.ones(2))
    assert found.tolist() == pytest.approx([2**1.95, 2**-1.95])
