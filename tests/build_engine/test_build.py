"""What `build` and its make targets say before anything is written."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from build_engine import build
from build_engine.__main__ import main
from build_engine.spec import BuildSpec
from contract import engine_dir, gpus
from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from contract.errors import BuildError

OLD = EngineInfo(ModelInfo("m", "s", vocab_size=8), RuntimeInfo("openvino"), "int8", "int8", EngineLimits(64, 63))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)


GIVEN = {
    "gpu": "h100", "kv_dtype": "fp8", "tensor_parallel": 2, "backend": "pytorch", "profile": "latency",
    "calibration": Path("p.txt"), "alpha": 0.7, "alpha_sweep": True, "dry_run": True, "speculate": "ngram",
    "fp8_head": True, "lora": (("a", Path("b")),), "vllm_args": {"x": 1},
}  # fmt: skip


@pytest.mark.parametrize("runtime", build.BUILDERS)
@pytest.mark.parametrize("field", build.OPTIONS)
def test_an_option_is_read_by_the_builder_or_refused_by_name(runtime, field, tmp_path, monkeypatch):
    seen = []
    builder = SimpleNamespace(PRECISIONS=("int8",), build=seen.append)
    monkeypatch.setattr(build.importlib, "import_module", lambda name: builder)
    spec = BuildSpec("m", "int8", runtime, tmp_path / "e", **{field: GIVEN[field]})
    if field in build.READ_BY[runtime]:
        build.build(spec)
        assert seen == [spec]
    else:
        variable = build.OPTIONS[field][0].upper().replace("-", "_")
        with pytest.raises(BuildError, match=rf"leave {variable}= out, or say RUNTIME=\w+") as caught:
            build.build(spec)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "e").exists()


def test_every_option_of_a_spec_is_known_to_be_read_or_not():
    common = {"model", "precision", "runtime", "out", "context", "revision", "force", "command"}
    limits = {"max_batch_size", "max_num_tokens", "max_input_len"}  # set by tests and other builders, by no option
    assert {field.name for field in dataclasses.fields(BuildSpec)} == common | limits | set(build.OPTIONS)
    assert all(
        default == getattr(BuildSpec("m", "p", "r", Path()), field) for field, (_, default) in build.OPTIONS.items()
    )


def test_an_engine_of_another_runtime_is_not_replaced_without_a_word(tmp_path, caplog):
    engine_dir.write(OLD, tmp_path)
    spec = BuildSpec("m", "bf16", "vllm", tmp_path)
    with caplog.at_level(logging.WARNING):
        build._say_what_is_replaced(spec)
        build._say_what_is_replaced(dataclasses.replace(spec, runtime="openvino"))
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "holds the openvino engine" in caplog.text


def test_vllm_says_that_it_cannot_be_served_here_before_anything_is_fetched(caplog, tmp_path, monkeypatch):
    from build_engine.vllm import build as vllm_build

    def locate(spec):
        assert "no NVIDIA GPU and no vLLM" in caplog.text
        raise BuildError("fetched")

    monkeypatch.setattr(vllm_build, "locate", locate)
    with pytest.raises(BuildError, match="fetched"):
        build.build(BuildSpec("Qwen/x", "bf16", "vllm", tmp_path / "e"))
    assert not (tmp_path / "e").exists()


def test_vllm_has_no_int8_kv_cache(tmp_path):
    with pytest.raises(BuildError, match="KV=fp8, or leave KV= out"):
        build.build(BuildSpec("Qwen/x", "bf16", "vllm", tmp_path / "e", kv_dtype="int8"))


def test_preflight_without_a_driver_lists_every_fault(tmp_path, capsys):
    assert main(["preflight", "--out", str(tmp_path / "e")]) == 1
    out = capsys.readouterr().out
    assert "FAULT  GPU: none visible" in out and "disk:" in out and "container:" in out


@pytest.mark.parametrize("field", ["model", "calibration", "lora"])
@pytest.mark.parametrize("below", ["", "inner"])
def test_an_engine_never_replaces_what_it_is_made_of(tmp_path, field, below):
    out = tmp_path / "engine"
    (out / "inner").mkdir(parents=True)
    (out / "engine.json").write_text("{}")
    (tmp_path / "link").symlink_to(out)
    read = out / below
    given = {"model": str(read)} if field == "model" else {field: (("poet", read),) if field == "lora" else read}
    spec = BuildSpec(
        **{"model": "synthetic", "precision": "auto", "runtime": "vllm", "out": tmp_path / "link", **given}
    )
    with pytest.raises(BuildError, match=f"--out: {out} holds {field.upper()}={read}, and the engine would replace it"):
        build.build(spec)
    assert (out / "engine.json").read_text() == "{}" and (out / "inner").is_dir()


@pytest.mark.parametrize("model", ["smollm2", "synthetic", "HERE"])
def test_only_the_hub_has_revisions(tmp_path, model):
    model = str(tmp_path) if model == "HERE" else model
    with pytest.raises(BuildError, match=f"--revision: {model} is not on the hub"):
        build.build(BuildSpec(model, "int8", "openvino", tmp_path / "out", revision="main"))


def test_the_simulated_runtime_needs_no_build(tmp_path):
    with pytest.raises(BuildError, match="make serve RUNTIME=simulated"):
        build.build(BuildSpec("synthetic", "int8", "simulated", tmp_path / "out"))
