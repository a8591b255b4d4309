"""An FP8 checkpoint: names and scales as ModelOpt's readers look for them, answers close to the original's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint
from contract.errors import BuildError
from tests.build_engine.fp8 import e4m3
from tests.oracle import tiny
from tests.oracle.numpy_decoder import NumpyDecoder

pytestmark = pytest.mark.oracle
LAYERS = range(tiny.COMMON["num_hidden_layers"])
JOINED = [("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")]


class Comparing(NumpyDecoder):
    """Beside every product the one that an FP8 engine computes: E4M3 weights and inputs, with the written scales."""

    def __init__(self, checkpoint, written):
        super().__init__(checkpoint)
        self._scales = {name: np.float32(value) for name, value in written.items() if name.endswith("_scale")}
        self._codes = {name: e4m3.decoded(codes) for name, codes in written.items() if codes.dtype == np.uint8}
        self.errors: list[float] = []

    def linear(self, x, name):
        wanted = x @ self.weights[f"{name}.weight"].T
        weight = self._codes[f"{name}.weight"] * self._scales[f"{name}.weight_scale"]
        found = e4m3.rounded(x, self._scales[f"{name}.input_scale"]) @ weight.T
        self.errors.append(float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)))
        return super().linear(x, name)


def export(name, tmp_path, **options):
    from build_engine.fp8 import export as fp8

    source, out = tiny.write(name, tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    checkpoint = Checkpoint(source)
    fp8.export(source, out, checkpoint.config, tiny.prompts(), fp8.Fp8Options(**options))
    return checkpoint, out, e4m3.read(out)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_product_is_within_what_e4m3_rounds(name, tmp_path):
    checkpoint, _, written = export(name, tmp_path)
    decoder = Comparing(checkpoint, written)
    for prompt in tiny.prompts():
        decoder.logits(prompt)
    assert len(decoder.errors) == 7 * len(LAYERS) * 6
    # weights and inputs each lose 2^-4 / sqrt(6) = 2.6 % of a value on average, 3.6 % together
    assert 0.02 < max(decoder.errors) < 0.045


def test_joined_maps_share_their_scales_and_the_rest_is_as_it_was(tmp_path):
    checkpoint, out, written = export("qwen2", tmp_path)
    for prefix in (f"model.layers.{number}." for number in LAYERS):
        for maps in JOINED:
            for kind in ("weight_scale", "input_scale"):
                assert len({float(written[f"{prefix}{name}.{kind}"]) for name in maps}) == 1
            largest = max(np.abs(checkpoint.float32(f"{prefix}{name}.weight")).max() for name in maps)
            assert float(written[f"{prefix}{maps[0]}.weight_scale"]) == pytest.approx(largest / 448)
        assert written[f"{prefix}self_attn.q_proj.weight"].dtype == np.uint8
        assert written[f"{prefix}self_attn.q_proj.weight_scale"].shape == ()
    kept = [name for name in checkpoint.names if not name.endswith("_proj.weight")]
    assert len(kept) == 2 + 5 * len(LAYERS)
    assert all(np.array_equal(written[name], checkpoint.raw(name)) for name in kept)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(written)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in written.values())


def test_what_readers_are_told(tmp_path):
    from build_engine.fp8 import export as fp8

    _, out, written = export("qwen2", tmp_path)
    told = json.loads((out / "hf_quant_config.json").read_text())
    assert told["producer"]["name"] == "modelopt"  # vLLM refuses another (weight_utils.get_quant_config)
    wanted = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    assert told["quantization"] == wanted
    config = fp8.quantization_config(fp8.Fp8Options())
    assert (config["quant_method"], config["ignore"]) == ("modelopt", ["lm_head"])
    assert "kv_cache_scheme" not in config and not [name for name in written if name.endswith(("k_scale", "v_scale"))]


def test_kv_scales_are_for_the_cache_and_hold_the_queries_too(tmp_path):
    from build_engine.fp8 import export as fp8

    _, out, written = export("qwen2", tmp_path, kv=True)
    for number in LAYERS:
        names = [f"model.layers.{number}.self_attn.{part}_proj.{part}_scale" for part in "kv"]
        assert all(written[name].shape == () and written[name] > 0 for name in names)
    assert json.loads((out / "hf_quant_config.json").read_text())["quantization"]["kv_cache_quant_algo"] == "FP8"
    assert fp8.quantization_config(fp8.Fp8Options(kv=True))["kv_cache_scheme"]["num_bits"] == 8


def test_the_output_layer_only_on_request_and_only_where_there_is_one(tmp_path):
    _, out, written = export("llama", tmp_path, head=True)
    assert written["lm_head.weight"].dtype == np.uint8 and written["lm_head.input_scale"] > 0
    assert json.loads((out / "hf_quant_config.json").read_text())["quantization"]["exclude_modules"] == []
    with pytest.raises(BuildError, match="tied to the embedding"):
        export("qwen2", tmp_path / "tied", head=True)


def test_a_tokenizer_of_another_model_is_said(tmp_path):
    from build_engine.fp8 import export as fp8

    source = tiny.write("llama", tmp_path / "m")
    with pytest.raises(BuildError, match=f"token {tiny.VOCAB} is beyond the vocabulary of {tiny.VOCAB}"):
        fp8.export(source, tmp_path, Checkpoint(source).config, [[1, tiny.VOCAB]], fp8.Fp8Options())
