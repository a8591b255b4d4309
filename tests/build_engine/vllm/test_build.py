"""Engine directories for vLLM: what is written, what is refused. The quantizers themselves need a GPU host."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from build_engine.spec import BuildSpec
from build_engine.vllm import build as vllm_build
from contract import engine_dir, gpus
from contract.errors import BuildError
from serving.runtimes.base import RuntimeOptions
from serving.runtimes.vllm import args as vllm_args
from tests.build_engine import small_tokenizer

CONFIG = {"vocab_size": 32, "max_position_embeddings": 64, "architectures": ["Qwen2ForCausalLM"]}
CALIBRATED = {"calibration": Path("prompts.jsonl")}


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    save_file({"weights": np.ones(4, np.float32)}, directory / "model.safetensors")
    small_tokenizer.write(directory)
    return directory


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)
    monkeypatch.setattr(vllm_build.importlib.util, "find_spec", lambda name: None)


def build(source, tmp_path, precision, **more):
    return vllm_build.build(BuildSpec(str(source), precision, "vllm", tmp_path / "out", **more))


@pytest.mark.parametrize(("precision", "backend"), [("bf16", ""), ("fp8-dynamic", "fp8-on-load")])
def test_a_checkpoint_is_linked_and_described(source, tmp_path, precision, backend):
    info = engine_dir.read(build(source, tmp_path, precision, tensor_parallel=2))
    assert (info.runtime.name, info.runtime.backend, info.precision) == ("vllm", backend, precision.partition("-")[0])
    assert (info.limits.max_seq_len, info.limits.max_input_len) == (64, 63)
    assert info.limits.max_num_tokens == 2048  # a long prompt is read in steps short enough for those who listen
    assert info.gpu is not None and info.gpu.tensor_parallel == 2
    assert (info.path / "model.safetensors").samefile(source / "model.safetensors")
    assert not (info.path / "config.json").samefile(source / "config.json")
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert set(info.files) == {"config.json", "model.safetensors"} | tokenizer
    assert vllm_args.quantization(info) == ("fp8" if backend else None)


@pytest.mark.parametrize(("gpus_wanted", "fits"), [(0, 0), (2, 1), (3, 0), (4, 1), (7, 0), (8, 0), (16, 0)])
def test_gpus_that_cannot_share_the_model_are_refused_before_anything_is_written(source, tmp_path, gpus_wanted, fits):
    shape = {"num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944}
    (source / "config.json").write_text(json.dumps(CONFIG | shape))
    if fits:
        build(source, tmp_path, "bf16", tensor_parallel=gpus_wanted)
        return
    with pytest.raises(BuildError, match=r"num_attention_heads 28, .*: use 1, 2, 4$"):
        build(source, tmp_path, "bf16", tensor_parallel=gpus_wanted)
    assert not (tmp_path / "out").exists()


def test_another_file_system_gets_a_copy(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    out = build(source, tmp_path, "bf16")
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_a_longer_context_gets_yarn(source, tmp_path):
    out = build(source, tmp_path, "bf16", context=128)
    config = json.loads((out / "config.json").read_text())
    assert config["rope_scaling"]["factor"] == 2.0 and config["max_position_embeddings"] == 128
    assert engine_dir.read(out).rope_scaling == config["rope_scaling"]
    assert json.loads((source / "config.json").read_text()) == CONFIG


def test_auto_follows_the_gpu(source, tmp_path):
    assert engine_dir.read(build(source, tmp_path, "auto", gpu="h200")).precision == "fp8"
    assert engine_dir.read(build(source, tmp_path, "auto", gpu="a100")).precision == "bf16"


def test_a_calibrated_checkpoint_says_what_it_is(source, tmp_path, monkeypatch):
    seen = {}

    def write(source, directory, config, prompts, options):
        seen.update(prompts=prompts, options=options)
        (directory / "model.safetensors").write_bytes(b"fp8")

    export = SimpleNamespace(
        Fp8Options=SimpleNamespace, encoded=lambda source, texts: [[len(texts)]], export=write,
        quantization_config=lambda options: {"quant_method": "modelopt"},
    )  # fmt: skip
    monkeypatch.setattr(vllm_build.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "build_engine.fp8.export", export)
    monkeypatch.setattr("build_engine.fp8.export", export, raising=False)
    info = engine_dir.read(build(source, tmp_path, "fp8", kv_dtype="fp8", fp8_head=True))
    assert (info.precision, info.kv_dtype, info.runtime.backend) == ("fp8", "fp8", "modelopt")
    assert vllm_args.quantization(info) is None  # the checkpoint says it
    config = json.loads((info.path / "config.json").read_text())
    assert config == CONFIG | {"quantization_config": {"quant_method": "modelopt"}}
    assert seen["prompts"] == [[512]] and (seen["options"].kv, seen["options"].head) == (True, True)


@pytest.mark.parametrize(
    ("break_it", "precision", "more", "says"),
    [
        (lambda s: (s / "model.safetensors").unlink(), "bf16", {}, "no .*safetensors"),
        (lambda s: (s / "tokenizer.json").unlink(), "bf16", {}, "no tokenizer.json"),
        (lambda s: (s / "config.json").write_text("{"), "bf16", {}, "cannot be read"),
        (lambda s: (s / "config.json").write_text('{"quantization_config": {}, "x": 1}'), "bf16", {}, "no vocab_size"),
        (lambda s: None, "fp8", {"gpu": "a100"}, "8.9"),
        (lambda s: None, "fp8-dynamic", {"gpu": "a100"}, "8.9"),
        (lambda s: None, "fp8", {}, "calibrated with torch, which is missing here: `make setup-vllm`, or fp8-dynamic"),
        (lambda s: None, "bf16", {"fp8_head": True}, "--fp8-head: it is a part of PRECISION=fp8"),
        (lambda s: None, "int8", {}, "incomplete or damaged"),
        (lambda s: None, "bf16", CALIBRATED, "bf16 is made without prompts: leave CALIBRATION= out$"),
        (
            lambda s: None,
            "bf16",
            {"vllm_args": {"model": "x", "seed": 1}},
            "--vllm-args: model, seed is set by this server",
        ),
        (lambda s: None, "bf16", {"lora": (("poet", Path("/nowhere")),)}, "no adapter_config.json"),
    ],
)
def test_what_cannot_be_built_is_one_line_and_leaves_nothing(source, tmp_path, break_it, precision, more, says):
    break_it(source)
    with pytest.raises(BuildError, match=says) as caught:
        build(source, tmp_path, precision, **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


ADAPTED = {"lora": (("poet", Path("adapter")),)}


@pytest.mark.parametrize(
    ("torch", "more", "why"),
    [(None, {}, "torch is missing here"), (object(), ADAPTED, "read the original activations")],
)
def test_int8_that_cannot_be_smoothed_is_rounded_with_a_warning(
    source, tmp_path, monkeypatch, caplog, torch, more, why
):
    written = []
    monkeypatch.setattr(vllm_build.importlib.util, "find_spec", lambda name: torch)
    monkeypatch.setattr(vllm_build, "Checkpoint", lambda path: path)
    monkeypatch.setattr(vllm_build, "require_layout", lambda checkpoint, where: None)
    monkeypatch.setattr(vllm_build, "_copy_adapter", lambda *_: None)
    monkeypatch.setattr(vllm_build.int8, "export", lambda checkpoint, directory: written.append(checkpoint))
    build(source, tmp_path, "int8", **more)
    assert written == [source]
    assert [why in r.message for r in caplog.records if "without SmoothQuant" in r.message] == [True]
    with pytest.raises(BuildError, match=f"--calibration: it is for SmoothQuant, but .*{why}"):
        build(source, tmp_path, "int8", **CALIBRATED, **more)


def test_adapters_are_refused_where_llm_compressor_would_smooth(source, tmp_path, monkeypatch):
    monkeypatch.setenv(vllm_build.LLMCOMPRESSOR_PYTHON, sys.executable)
    with pytest.raises(BuildError, match="--lora: SmoothQuant changes the activations"):
        build(source, tmp_path, "int8", **ADAPTED)


def test_int8_with_torch_is_smoothed_on_the_prompts(source, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(vllm_build.importlib.util, "find_spec", lambda name: object())
    fp8 = SimpleNamespace(encoded=lambda source, texts: [[len(texts)]])
    monkeypatch.setitem(sys.modules, "build_engine.fp8.export", fp8)
    monkeypatch.setattr("build_engine.fp8.export", fp8, raising=False)
    monkeypatch.setitem(
        sys.modules, "build_engine.vllm.smoothing", SimpleNamespace(smoothed=lambda *given: ("smoothed", *given))
    )
    monkeypatch.setattr(vllm_build, "Checkpoint", lambda path: path)
    monkeypatch.setattr(vllm_build, "require_layout", lambda checkpoint, where: None)
    monkeypatch.setattr(vllm_build.int8, "export", lambda checkpoint, directory: written.append(checkpoint))
    build(source, tmp_path, "int8")
    assert written == [("smoothed", source, [[512]])]


def test_an_interpreter_without_llm_compressor_is_refused(source, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv(vllm_build.LLMCOMPRESSOR_PYTHON, str(python))
    with pytest.raises(BuildError, match=r"llmcompressor==0.12.0"):
        build(source, tmp_path, "int8")


def test_adapters_and_engine_arguments_go_with_the_engine(source, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(b"lora")
    more = {"lora": (("poet", adapter),), "speculate": "ngram", "vllm_args": {"enforce_eager": True}}
    info = engine_dir.read(build(source, tmp_path, "bf16", **more))
    assert engine_dir.adapters(info.path) == ["poet"]
    assert info.runtime.options == {"speculative_config": vllm_build.NGRAM, "enforce_eager": True}
    given = vllm_args.engine_args(info, RuntimeOptions())
    assert given["speculative_config"]["method"] == "ngram" and given["enable_lora"] and given["enforce_eager"]


def test_a_failed_compressor_is_said(source, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} -c "raise SystemExit(3)"\n')
    python.chmod(0o755)
    monkeypatch.setenv(vllm_build.LLMCOMPRESSOR_PYTHON, str(python))
    with pytest.raises(BuildError, match="llm-compressor failed"):
        build(source, tmp_path, "int8")
