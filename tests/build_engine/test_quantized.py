"""Checkpoints that are quantized already: recognized, served as they are where that works, refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from build_engine import quantized
from build_engine.__main__ import main
from build_engine.build import build
from build_engine.plan.model import DEFAULT_MODEL, load_config
from build_engine.spec import BuildSpec
from build_engine.tensorrt_llm import build as tensorrt_llm_build
from build_engine.verify import gate
from contract import engine_dir, gpus
from contract.engine_dir import BuildInfo
from contract.errors import BuildError
from serving.runtimes.vllm import args as vllm_args
from tests.build_engine import small_tokenizer

QWEN = load_config(DEFAULT_MODEL)
KV = {"num_bits": 8, "type": "float", "dynamic": False}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"], "kv_cache_scheme": KV}
MODELOPT_FILE = {
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}


def tensors(kind: str, weights: int, activations: int | None) -> dict[str, Any]:
    group = {"weights": {"type": kind, "num_bits": weights}, "targets": ["Linear"]}
    group["input_activations"] = {"type": kind, "num_bits": activations} if activations else None
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


# name of a kind -> quantization_config, what we call it, precision
KINDS = {
    "modelopt": (MODELOPT, "ModelOpt FP8", "fp8"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8", "fp8"),
    "fp8-tensors": (tensors("float", 8, 8), "compressed-tensors W8A8 float", "fp8"),
    "w8a8": (tensors("int", 8, 8), "compressed-tensors W8A8 int", "int8"),
    "w4a16": (tensors("int", 4, None), "compressed-tensors W4A16 int", "int4"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "AWQ, 4 bit", "int4"),
    "gptq": ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "GPTQ, 8 bit", "int8"),
}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)


def checkpoint(directory: Path, config: dict[str, Any] | None, **beside: Any) -> Path:
    directory.mkdir()
    more = {"quantization_config": config} if config else {}
    for name, data in ({"config": QWEN | more} | beside).items():
        (directory / f"{name}.json").write_text(json.dumps(data))
    small_tokenizer.write(directory)
    save_file({"packed": np.ones(4, np.int32)}, directory / "model.safetensors")
    return directory


def spec(source: Path, runtime: str, **more: Any) -> BuildSpec:
    given = {"precision": "int8" if runtime == "openvino" else "auto"} | more
    return BuildSpec(str(source), runtime=runtime, out=source.parent / "out", **given)


@pytest.mark.parametrize("name", KINDS)
def test_vllm_serves_every_kind_as_it_is(tmp_path, name):
    config, kind, precision = KINDS[name]
    source = checkpoint(tmp_path / name, config)
    found = quantized.of_model(str(source))
    assert found and (found.kind, found.precision) == (kind, precision)
    info = engine_dir.read(build(spec(source, "vllm")))
    assert (info.precision, info.kv_dtype, info.runtime.backend) == (precision, "bf16", config["quant_method"])
    assert (info.path / "model.safetensors").samefile(source / "model.safetensors")
    assert vllm_args.quantization(info) is None  # the checkpoint says it
    written = json.loads((info.path / "config.json").read_text())
    assert "kv_cache_scheme" not in written["quantization_config"]  # vLLM would turn the KV cache to FP8 by itself
    assert written["quantization_config"].items() <= config.items()
    engine_dir.read(build(spec(source, "vllm", precision=precision) if precision != "int4" else spec(source, "vllm")))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("runtime", ["openvino", "tensorrt_llm"])
def test_engines_that_quantize_by_themselves_refuse_every_kind_in_one_line(tmp_path, name, runtime):
    source = checkpoint(tmp_path / name, KINDS[name][0])
    with pytest.raises(BuildError) as caught:
        build(spec(source, runtime, gpu="" if runtime == "openvino" else "h100"))
    text = str(caught.value)
    assert text.startswith(f"{source} is already quantized ({KINDS[name][1]}): this build quantizes the original BF16")
    others = "RUNTIME=vllm or BACKEND=pytorch serves" if name == "modelopt" else "RUNTIME=vllm serves"
    assert others in text and "\n" not in text
    assert not (tmp_path / "out").exists() and not (tmp_path / ".build").exists()


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"modelopt"}))
def test_the_pytorch_backend_refuses_what_it_would_misread(tmp_path, name):
    """Its loader takes any compressed tensors of eight bits for FP8, and other kinds for unquantized weights."""
    source = checkpoint(tmp_path / name, KINDS[name][0])
    with pytest.raises(BuildError, match=r"PyTorch backend reads only ModelOpt's FP8.*RUNTIME=vllm serves"):
        build(spec(source, "tensorrt_llm", gpu="h100", backend="pytorch"))


@pytest.mark.parametrize("form", ["config", "file"])
@pytest.mark.parametrize("kv", [None, "fp8"])
def test_the_pytorch_backend_takes_modelopts_fp8_and_is_told_the_kv_type_asked_for(tmp_path, form, kv):
    beside = {"hf_quant_config": MODELOPT_FILE} if form == "file" else {}
    source = checkpoint(tmp_path / "m", None if beside else MODELOPT, **beside)
    recipe = tensorrt_llm_build.recipe_of(spec(source, "tensorrt_llm", gpu="h100", backend="pytorch", kv_dtype=kv))
    assert recipe.steps == [] and recipe.artefact == source
    assert tensorrt_llm_build.dry_run_lines(recipe)[-1].startswith("# the accuracy gate needs the original")
    out = tmp_path / "engine"
    out.mkdir()
    tensorrt_llm_build.assemble(recipe, out, BuildInfo())
    told = json.loads((out / "checkpoint" / "hf_quant_config.json").read_text())
    assert told["quantization"] == {
        "quant_algo": "FP8", "kv_cache_quant_algo": "FP8" if kv else None, "exclude_modules": ["lm_head"],
    }  # fmt: skip
    config = json.loads((out / "checkpoint" / "config.json").read_text())["quantization_config"]
    assert bool("kv_cache_scheme" in config or "kv_cache_quant_algo" in config.get("quantization", {})) == bool(kv)
    assert quantized.of_model(str(source)).config_for("fp8")  # the source is as it was
    info = engine_dir.read(out)
    assert (info.precision, info.kv_dtype, info.runtime.backend) == ("fp8", kv or "bf16", "pytorch")
    with pytest.raises(BuildError, match="quantized checkpoint: pass --reference, its BF16 original"):
        gate.default_reference(info)


@pytest.mark.parametrize(
    ("file", "data", "kind", "method"),
    [
        ("hf_quant_config", MODELOPT_FILE, "ModelOpt FP8", "modelopt"),
        ("quantize_config", {"bits": 4, "group_size": 128, "desc_act": False}, "GPTQ, 4 bit", "gptq"),
        ("quant_config", {"w_bit": 4, "q_group_size": 128, "zero_point": True}, "AWQ, 4 bit", "awq"),
    ],
)
def test_older_tools_say_it_in_a_file_of_their_own(tmp_path, file, data, kind, method):
    source = checkpoint(tmp_path / "m", None, **{file: data})
    assert quantized.of_model(str(source)).kind == kind
    written = json.loads((build(spec(source, "vllm")) / "config.json").read_text())["quantization_config"]
    assert written["quant_method"] == method
    with pytest.raises(BuildError, match="already quantized"):
        build(spec(source, "openvino"))


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        tensors("float", 4, 4),
        {"quant_method": "awq", "bits": 3},
        {"bits": 4},
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, config):
    source = checkpoint(tmp_path / "m", config)
    for runtime in ("vllm", "openvino", "tensorrt_llm"):
        with pytest.raises(BuildError, match=r"config.json: this quantization is not known here \(quant_method "):
            build(spec(source, runtime, gpu="" if runtime == "openvino" else "h100"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"precision": "bf16"}, r"--precision: the checkpoint is already quantized \(ModelOpt FP8\): leave PRECISION="),
        ({"precision": "fp8-dynamic"}, "leave PRECISION="),
        ({"fp8_head": True}, "--fp8-head: .*leave FP8_HEAD= out"),
        ({"calibration": Path("prompts.txt")}, "--calibration: .*leave CALIBRATION= out"),
        ({"gpu": "a100-80"}, "ModelOpt FP8, which needs compute capability 8.9, this GPU has 8.0"),
    ],
)
def test_options_of_quantizing_are_refused_for_a_quantized_checkpoint(tmp_path, more, says):
    with pytest.raises(BuildError, match=says):
        build(spec(checkpoint(tmp_path / "m", MODELOPT), "vllm", **more))


def test_the_plan_is_of_the_weights_as_they_are(tmp_path, capsys):
    source = checkpoint(tmp_path / "m", KINDS["awq"][0])
    assert main(["plan", "--model", str(source), "--gpu", "a100-80", "--runtime", "vllm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "int4"
    assert main(["plan", "--model", str(source), "--gpu", "a100-80"]) == 1
    assert "already quantized (AWQ, 4 bit)" in capsys.readouterr().err
    assert main(["plan", "--model", str(source), "--gpu", "h100", "--runtime", "vllm", "--precision", "fp8"]) == 1
    assert "precision of this quantized checkpoint: 'fp8' is not one of auto, int4" in capsys.readouterr().err
