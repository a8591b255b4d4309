"""The FP8 checkpoint against the loaders that read it: every field and tensor, and what each of them would refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from build_engine.checkpoint import INDEX, Checkpoint, write_safetensors
from build_engine.tokenizer_files import dump
from tests.build_engine.fp8 import e4m3, readers
from tests.oracle import tiny

pytestmark = pytest.mark.oracle
BOTH = pytest.mark.parametrize("reader", [readers.vllm, readers.tensorrt_llm])
LAYERS = range(tiny.COMMON["num_hidden_layers"])
FUSED = {
    f"model.layers.{number}.{name}"
    for number in LAYERS
    for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
}


def written(name, directory, **options):
    """A whole checkpoint as both builders leave it."""
    from build_engine.fp8 import export as fp8

    source, chosen = tiny.write(name, directory / "source"), fp8.Fp8Options(**options)
    out = directory / "out"
    out.mkdir()
    config = Checkpoint(source).config
    fp8.export(source, out, config, tiny.prompts(), chosen)
    dump(config | {"quantization_config": fp8.quantization_config(chosen)}, out / "config.json")
    return out


@BOTH
@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("kv", [False, True])
def test_both_readers_understand_every_tensor(tmp_path, name, kv, reader):
    found = reader(written(name, tmp_path, kv=kv))
    assert found == readers.Understood(frozenset(FUSED), ("lm_head",), "FP8" if kv else None)


def test_an_fp8_output_layer_is_read_by_vllm(tmp_path):
    """TensorRT-LLM's output layer is never quantized, so only vLLM's builder asks for it."""
    assert readers.vllm(written("llama", tmp_path, head=True)).layers == FUSED | {"lm_head"}


def test_both_descriptions_say_the_same(tmp_path):
    for kv in (False, True):
        out = written("qwen2", tmp_path / str(kv), kv=kv)
        config = json.loads((out / "config.json").read_text())
        by_config = readers.vllm(out)
        dump({key: value for key, value in config.items() if key != "quantization_config"}, out / "config.json")
        assert readers.vllm(out) == by_config


def test_joined_weights_survive_tensorrt_llms_second_rounding(tmp_path):
    """It computes BF16 codes × scale ÷ the largest scale, in E4M3 again: with one scale each code comes back."""
    import torch

    out = written("qwen2", tmp_path)
    written_tensors = e4m3.read(out)
    joined = [name for name in written_tensors if name.split(".")[-2] in readers.PARTS and name.endswith(".weight")]
    assert len(joined) == 5 * len(LAYERS)
    for name in joined:
        codes = torch.from_numpy(written_tensors[name].copy())
        scale = torch.tensor(written_tensors[f"{name}_scale"])
        again = (codes.view(torch.float8_e4m3fn).to(torch.bfloat16) * scale / scale).to(torch.float8_e4m3fn)
        assert torch.equal(again.view(torch.uint8), codes)


def without_scale(out):
    _change(out, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.input_scale"))


def scale_per_row(out):
    _change(out, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight_scale": np.ones(192, np.float32)}))


def unread_scale(out):
    _change(out, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.output_scale": np.ones((), np.float32)}))


def other_algorithm(out):
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"]["quant_algo"] = "NVFP4"
    dump(config, out / "config.json")
    told = json.loads((out / "hf_quant_config.json").read_text())
    told["quantization"]["quant_algo"] = "fp8"
    dump(told, out / "hf_quant_config.json")


def nothing_said(out):
    (out / "hf_quant_config.json").unlink()
    config = json.loads((out / "config.json").read_text())
    del config["quantization_config"]
    dump(config, out / "config.json")


@BOTH
@pytest.mark.parametrize("damage", [without_scale, scale_per_row, unread_scale, other_algorithm, nothing_said])
def test_a_reader_refuses_what_its_loader_would(tmp_path, damage, reader):
    out = written("qwen2", tmp_path)
    damage(out)
    with pytest.raises(readers.Refused):
        reader(out)


def _change(out, change):
    """The same tensors after ``change``, in one file."""
    kinds = {name: each.dtype for name, each in readers.tensors(out).items()}
    tensors = e4m3.read(out)
    for path in out.glob("*.safetensors"):
        path.unlink()
    change(tensors)
    write_safetensors(out / "model.safetensors", {name: (kinds.get(name, "F32"), tensors[name]) for name in tensors})
    dump({"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}, out / INDEX)
