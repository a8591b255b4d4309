"""Which engine `make serve` serves, and what it builds first."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from contract import engine_dir
from contract.arguments import EXIT_NOT_FETCHED
from contract.engine_dir import BuildInfo, EngineInfo, EngineLimits, FileInfo, ModelInfo, RuntimeInfo
from serving.launch import announcement
from serving.launch import config as launch_config
from serving.launch import engine as launch_engine
from serving.launch.config import LaunchError, parse


class Builder:
    """Stands in for ``python -m build_engine``: ``fails`` are the models that cannot be built, ``code`` how it ends."""

    def __init__(self, *fails: str, code: int = EXIT_NOT_FETCHED) -> None:
        self.fails, self.code = fails, code
        self.built: list[tuple[str, str]] = []  # model and directory

    def __call__(self, *arguments: str) -> int:
        model, out = arguments[arguments.index("--model") + 1], Path(arguments[arguments.index("--out") + 1])
        self.built.append((model, out.name))
        if model not in self.fails:
            write(out, model)
        return self.code if model in self.fails else 0


def write(out: Path, model: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    info = ModelInfo(f"{model}-name", model, synthetic=model.startswith("synthetic"))
    engine_dir.write(EngineInfo(info, RuntimeInfo("openvino"), "int8", "int8", EngineLimits(64, 63)), out)


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(launch_engine, "_build", made)
    monkeypatch.setattr(launch_engine.shutil, "which", lambda _: None)  # no GPU
    for module in (launch_config, launch_engine):
        monkeypatch.setattr(module, "DEFAULT_ENGINE", tmp_path / "default")
    monkeypatch.setattr(launch_config, "ENGINES", tmp_path)
    return made


def served(*arguments: str) -> tuple[str, EngineInfo]:
    config, engine = launch_engine.prepare(parse(list(arguments)))
    assert config.engine == engine.path
    return config.engine.name, engine


def test_an_engine_of_another_runtime_is_refused(builder: Builder, tmp_path: Path) -> None:
    write(tmp_path / "default", "x")
    assert served("--runtime", "openvino")[0] == "default"
    for runtime in ("vllm", "tensorrt_llm"):
        with pytest.raises(LaunchError, match=rf"is an engine for openvino, RUNTIME={runtime} was asked for"):
            served("--runtime", runtime)


def test_no_engine_of_the_named_runtime_is_not_replaced_by_one_for_the_cpu(builder: Builder) -> None:
    with pytest.raises(LaunchError, match="make engine RUNTIME=vllm"):
        served("--runtime", "vllm")
    assert builder.built == []


def test_a_fresh_machine_serves_smollm2_and_builds_it_once(builder: Builder) -> None:
    for _ in range(2):
        name, engine = served()
        assert (name, engine.model.source) == ("smollm2", "smollm2")
    assert builder.built == [("smollm2", "smollm2")]
    about = launch_engine.note(engine)
    assert "Apache-2.0" in about and "English" in about and "make serve MODEL=Qwen/Qwen2.5-7B-Instruct" in about


def test_without_a_package_index_the_text_is_noise_and_the_next_start_tries_again(
    builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    builder.fails = ("smollm2",)
    name, engine = served()
    assert name == "synthetic" and "noise" in launch_engine.note(engine)
    assert "make serve MODEL=smollm2;" in launch_engine.note(engine), "how to get the default back"
    assert "random weights" in capsys.readouterr().out
    builder.fails = ()
    assert served()[0] == "smollm2"
    assert [model for model, _ in builder.built] == ["smollm2", "synthetic", "smollm2"]


def test_a_failure_that_is_not_the_networks_is_not_answered_with_noise(builder: Builder) -> None:
    builder.fails, builder.code = ("smollm2",), 1  # a full disk
    with pytest.raises(LaunchError, match=r"could not be built .* make serve MODEL=smollm2 ENGINE=another/directory"):
        served()
    assert [model for model, _ in builder.built] == ["smollm2"]


@pytest.mark.parametrize("runtime", ["openvino", "vllm", "simulated"])
def test_a_damaged_engine_is_refused_before_anything_starts(builder: Builder, tmp_path: Path, runtime: str) -> None:
    out = tmp_path / "default"
    out.mkdir()
    names = ("model.bin", "tokenizer.json", "generation_config.json")
    files = {name: FileInfo("", 20) for name in names}
    info = EngineInfo(ModelInfo("m", "some/model"), RuntimeInfo(runtime), "int8", "int8", EngineLimits(64, 63))
    engine_dir.write(dataclasses.replace(info, files=files), out)
    for name in names:
        (out / name).write_text('{"eos_token_id": 12}')
    assert served()[0] == "default"
    (out / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true, "temperature": 0.5}')
    assert served()[0] == "default", "sampling defaults may be edited"
    again = rf"; build it again: make engine (RUNTIME=vllm )?MODEL=some/model PRECISION=int8 ENGINE={out}$"
    again = rf"; build it again: rm -r {out}; make serve RUNTIME=simulated$" if runtime == "simulated" else again
    (out / "model.bin").write_text("a")
    with pytest.raises(LaunchError, match=f"damaged: {out}/model.bin has 1 bytes instead of 20{again}"):
        served()
    (out / "model.bin").write_text("x" * 20)
    (out / "tokenizer.json").write_text("x" * 20)
    with pytest.raises(
        LaunchError, match=rf"damaged: {out}/tokenizer.json is not a JSON object \(Expecting value.*\){again}"
    ):
        served()
    (out / "tokenizer.json").unlink()
    with pytest.raises(LaunchError, match=f"damaged: {out}/tokenizer.json is missing{again}"):
        served()
    assert builder.built == []


def test_what_make_engine_built_is_served(builder: Builder, tmp_path: Path) -> None:
    write(tmp_path / "default", "Qwen/Qwen2.5-7B-Instruct")
    assert served()[0] == "default"
    assert served("--model", "Qwen/Qwen2.5-7B-Instruct")[0] == "default"
    assert not builder.built and launch_engine.note(served()[1]) == ""


def test_an_engine_of_an_older_recipe_is_served_with_the_command_that_renews_it(
    builder: Builder, tmp_path: Path
) -> None:
    write(tmp_path / "default", "smollm2")
    config, old = launch_engine.prepare(parse([]))
    command = f"make engine MODEL=smollm2 PRECISION=int8 ENGINE={tmp_path / 'default'}"
    assert launch_engine.outdated(old).endswith(command) and command in announcement.text(config, old, tmp_path)
    recipe = RuntimeInfo("openvino", recipe=engine_dir.OPENVINO_RECIPE)
    for runtime in (recipe, RuntimeInfo("vllm"), RuntimeInfo("simulated")):
        fresh = dataclasses.replace(old, runtime=runtime)
        assert launch_engine.outdated(fresh) == "" and command not in announcement.text(config, fresh, tmp_path)


def test_a_checkpoint_that_changed_since_is_told_with_the_command_that_builds_it_again(
    builder: Builder, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    weights = checkpoint / "model.safetensors"
    weights.touch()
    write(tmp_path / "default", str(checkpoint))
    config, engine = launch_engine.prepare(parse([]))
    assert launch_engine.changed(engine) == "", "it does not say when it was built"
    built = dataclasses.replace(engine, build=BuildInfo(started="2026-01-01T12:00:00+00:00"))
    noon = datetime.fromisoformat(built.build.started).timestamp()
    os.utime(weights, (noon - 1, noon - 1))
    assert launch_engine.changed(built) == ""
    os.utime(weights, (noon + 1, noon + 1))
    command = f"make engine MODEL={checkpoint} PRECISION=int8 ENGINE={tmp_path / 'default'}"
    assert launch_engine.changed(built) == f"{weights} is newer than this engine, which was built from it: {command}"
    assert command in announcement.text(config, built, tmp_path)
    weights.unlink()
    assert launch_engine.changed(built) == ""


def test_a_named_model_gets_an_engine_of_its_own(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "default", "smollm2")
    assert served("--model", "synthetic")[0] == "synthetic"
    assert served("--model", "/models/Chat-Q8_0.gguf")[0] == "chat-q8_0.gguf"
    assert served("--model", "/other/Chat-Q8_0.gguf")[1].model.source == "/other/Chat-Q8_0.gguf"
    assert served("--engine", str(tmp_path / "here"), "--model", "smollm2")[0] == "here"
    for name in ("there", "checkpoint"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert served("--model", ".")[0] == "there"
    assert served("--model", "../checkpoint/../checkpoint/")[1].model.source == "../checkpoint/../checkpoint/"
    assert [out for _, out in builder.built[4:]] == ["there", "checkpoint"]


def test_a_model_that_is_an_engine_is_served_as_it_is(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MODEL=engines/mine`: an engine would have been made of it in its own place."""
    write(tmp_path / "mine", "hub/model")
    monkeypatch.chdir(tmp_path)
    for model in ("mine", "mine/", str(tmp_path / "mine")):
        name, engine = served("--model", model)
        assert (name, engine.model.source) == ("mine", "hub/model")
    assert builder.built == []


@pytest.mark.parametrize("arguments", [["--model", "/"], ["--model", " "]])
def test_a_model_without_a_name_is_refused(arguments: list[str]) -> None:
    with pytest.raises(LaunchError, match=r"^MODEL=.* has no name: give a directory"):
        parse(arguments)


def test_the_simulated_runtime_has_no_model() -> None:
    with pytest.raises(LaunchError, match="MODEL=smollm2 has no effect with RUNTIME=simulated"):
        parse(["--runtime", "simulated", "--model", "smollm2"])


def test_what_cannot_be_built(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.fails = ("smollm2", "synthetic", "nowhere")
    for arguments in ([], ["--model", "nowhere"]):
        with pytest.raises(LaunchError, match="could not be built"):
            served(*arguments)
    monkeypatch.setattr(launch_engine.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(LaunchError, match="has an NVIDIA GPU, run `make engine` first"):
        served()


def test_a_kv_cache_that_no_memory_holds_is_refused_before_anything_loads(builder: Builder, tmp_path: Path) -> None:
    write(tmp_path / "default", "x")
    assert served("--kv-cache-gb", "0.5")[0] == "default"
    with pytest.raises(LaunchError, match=r"KV_CACHE_GB=90000 is too much: this machine has \d+ GiB; give less"):
        served("--kv-cache-gb", "90000")


SHAPE = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 256, "vocab_size": 100, "max_position_embeddings": 8192}  # fmt: skip


@pytest.mark.parametrize(
    ("runtime", "context", "exact", "tokens", "least"),
    [
        # 2 layers x (key + value) x 64 values of one byte, and an eighth for scales: 288 bytes for each token
        ("openvino", 8192, "0", 512, 0.0002),
        ("openvino", 8192, "1", 512, 0.0006),  # FP32
        ("openvino", 64, "0", 64, 0.0001),
        ("vllm", 8192, "0", 8192, 0.0022),  # it starts only with room for its longest sequence
    ],
)
def test_a_kv_cache_that_holds_no_useful_request_is_refused_with_the_least_that_does(
    builder: Builder, tmp_path: Path, runtime: str, context: int, exact: str, tokens: int, least: float
) -> None:
    out = tmp_path / "default"
    out.mkdir()
    limits = EngineLimits(context, context - 1)
    engine_dir.write(EngineInfo(ModelInfo("m", "m"), RuntimeInfo(runtime), "int8", "int8", limits), out)
    (out / "config.json").write_text(json.dumps(SHAPE))
    line = f"KV_CACHE_GB=1e-07 is too little: {tokens} tokens of m take {least:g}; give that or more"
    with pytest.raises(LaunchError, match=line):
        served("--kv-cache-gb", "0.0000001", "--exact", exact)
    assert served("--kv-cache-gb", str(least), "--exact", exact)[0] == "default"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"eos_token_id": 2, "top_p": "hot"}', "generation_config.json: top_p is 'hot', not a number from 0 to 1"),
        ('{"eos_token_id": 2, "repetition_penalty": 0}', "repetition_penalty is 0, not a number from 0 to 10"),
        ('{"top_p": 0.5}', "eos_token_id is missing, so no answer would end"),
        ('{"eos_token_id": "end"}', "has no usable eos_token_id"),
        ('{"top_p": 0.5,}', r"is not a JSON object \(.*line 1 column"),
        ("[1]", r"is not a JSON object \(it begins with '\[1\]'\)"),
    ],
)
def test_an_edit_that_no_request_could_live_with_is_told_before_anything_starts(
    builder: Builder, tmp_path: Path, text: str, problem: str
) -> None:
    out = tmp_path / "default"
    out.mkdir()
    info = EngineInfo(ModelInfo("m", "x"), RuntimeInfo("openvino"), "int8", "int8", EngineLimits(64, 63))
    engine_dir.write(dataclasses.replace(info, files={"generation_config.json": FileInfo("", 3)}), out)
    (out / "generation_config.json").write_text(text)
    with pytest.raises(LaunchError, match=problem):
        served()
