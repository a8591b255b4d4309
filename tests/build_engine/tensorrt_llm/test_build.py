"""The build as a whole: dry run, resumable steps, what lies in the engine directory. No GPU: stand-in commands."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import jsonschema
import pytest

from build_engine import steps
from build_engine.__main__ import main
from build_engine.plan.model import DEFAULT_MODEL, load_config
from build_engine.spec import BuildSpec
from build_engine.steps import STAMP
from build_engine.tensorrt_llm import build as tensorrt_llm_build
from build_engine.tensorrt_llm.recipe import Recipe
from contract import engine_dir, gpus
from contract.engine_dir import BuildInfo
from contract.errors import BuildError
from contract.versions import ROOT, pinned
from serving.host import container
from tests.build_engine import small_tokenizer

SCHEMA = json.loads((ROOT / "contract" / "engine.schema.json").read_text())


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)
    monkeypatch.delenv("DRY_RUN", raising=False)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "model" / "Qwen2.5-7B-Instruct"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(load_config(DEFAULT_MODEL)))
    small_tokenizer.write(path)
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def spec(out: Path, model=DEFAULT_MODEL, **rest) -> BuildSpec:
    rest = {"precision": "auto", "gpu": "h100"} | rest
    return BuildSpec(model=str(model), runtime="tensorrt_llm", out=out, **rest)


def script(capsys, out: Path, *arguments: str) -> list[list[str]]:
    base = ["build", "--runtime", "tensorrt_llm", "--model", DEFAULT_MODEL, "--out", str(out), "--dry-run"]
    assert main([*base, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def test_dry_run_prints_the_whole_build_without_a_gpu_and_touches_nothing(tmp_path, capsys):
    commands = script(capsys, tmp_path / "out")
    joined = [" ".join(command) for command in commands]
    assert joined[0].startswith("docker build") and pinned("tensorrt_llm", "container") in joined[0]
    assert "build_engine.fetch --model Qwen/Qwen2.5-7B-Instruct" in joined[1]
    assert "build_engine.calibration" in joined[2]
    assert "quantize.py" in joined[3] and "--qformat fp8" in joined[3]
    assert "trtllm-build" in joined[4] and "build_engine verify" in joined[5]
    assert list(tmp_path.iterdir()) == []


def test_each_step_hands_its_output_to_the_next(tmp_path, capsys):
    commands = script(capsys, tmp_path / "out", "--context", "book")
    names = ("build_engine.fetch", "build_engine.tensorrt_llm.yarn", "quantize.py", "trtllm-build")
    chain = [next(c for c in commands if any(name in part for part in c)) for name in names]
    fetched = chain[0][chain[0].index("--output") + 1]
    stretched = chain[1][chain[1].index("--output") + 1]
    assert chain[1][chain[1].index("--model") + 1] == fetched
    assert chain[2][chain[2].index("--model_dir") + 1] == stretched
    assert chain[3][chain[3].index("--checkpoint_dir") + 1] == chain[2][chain[2].index("--output_dir") + 1]
    assert chain[3][chain[3].index("--max_seq_len") + 1] == "131072"


def test_container_settings_of_the_gpu_steps(tmp_path, capsys):
    for command in script(capsys, tmp_path / "out"):
        if command[:2] == ["docker", "run"]:
            text = " ".join(command)
            assert "--gpus all --shm-size=8g --ulimit memlock=-1 --ulimit stack=67108864" in text
            assert "--user" in command and container.image() in command and f"{ROOT}:{ROOT}:ro" in text


def test_dry_run_from_the_environment_and_inside_the_container(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setattr(container, "inside", lambda: True)
    arguments = ["build", "--model", DEFAULT_MODEL, "--precision", "int8_sq", "--gpu", "a100"]
    assert main([*arguments, "--out", str(tmp_path / "x")]) == 0
    out = capsys.readouterr().out
    assert "docker" not in out and " python3 /app/examples/models/core/qwen/convert_checkpoint.py" in out


def test_pytorch_backend_exports_one_checkpoint_and_builds_no_engine(tmp_path):
    made = tensorrt_llm_build.recipe_of(spec(tmp_path / "out", backend="pytorch"))
    text = "\n".join(step.shell() for step in made.steps)
    assert "build_engine.fp8" in text and "trtllm-build" not in text
    assert made.artefact == made.steps[-1].output


def test_engines_of_other_contexts_share_the_quantized_checkpoint(tmp_path):
    made = [(tensorrt_llm_build.recipe_of(spec(tmp_path / "out", context=length))) for length in (8192, 32768)]
    quantized = [next(s.output for s in one.steps if "quantize" in s.name) for one in made]
    assert quantized[0] == quantized[1] and made[0].artefact != made[1].artefact
    other = tensorrt_llm_build.recipe_of(spec(tmp_path / "out", precision="int8_sq", alpha=0.7))
    plain = tensorrt_llm_build.recipe_of(spec(tmp_path / "out", precision="int8_sq"))
    assert other.artefact != plain.artefact


def test_edited_calibration_prompts_are_another_step_with_another_cache(tmp_path):
    """``datasets`` caches by name: a second set in a long-lived container was silently the first one."""
    prompts = tmp_path / "prompts.txt"
    commands = []
    for text in ("one", "two"):
        prompts.write_text(text)
        made = tensorrt_llm_build.recipe_of(spec(tmp_path / "out", precision="int8_sq", calibration=prompts))
        step = next(step for step in made.steps if "quantize" in step.name)
        [cache] = [part for part in step.argv if part.startswith("HF_DATASETS_CACHE=")]
        assert cache.removeprefix("HF_DATASETS_CACHE=").startswith(str(made.work))
        commands.append((cache, step.output))
    assert commands[0][0] != commands[1][0] and commands[0][1] != commands[1][1]


@pytest.mark.parametrize("word", ["attempt1", "vila", "my_cnn_dailymail", "ScienceQA"])
def test_paths_that_quantize_py_takes_for_another_model_are_refused(tmp_path, word):
    with pytest.raises(BuildError, match=r"contains '(mpt|vila|cnn_dailymail|scienceqa)'.*ENGINE="):
        tensorrt_llm_build.recipe_of(spec(tmp_path / word / "out"))
    (tmp_path / word).mkdir(exist_ok=True)
    with pytest.raises(BuildError, match=r"contains.*MODEL="):
        tensorrt_llm_build.refuse_path_words(
            spec(tmp_path / "out", tmp_path / word),
            tensorrt_llm_build.recipe_of(spec(tmp_path / "out")).plan.request,
        )
    tensorrt_llm_build.recipe_of(spec(tmp_path / word / "out", precision="int8_sq"))  # other tool, other words


def test_the_speed_profile_is_planned_and_recorded(checkpoint, tmp_path):
    made = tensorrt_llm_build.recipe_of(spec(tmp_path / "out", checkpoint, profile="latency"))
    assert made.plan.max_batch_size == 16 and "--low_latency_gemm_plugin" in made.steps[-1].argv
    with pytest.raises(BuildError, match="'fast' is not one of balanced, latency, throughput"):
        tensorrt_llm_build.recipe_of(spec(tmp_path / "out", checkpoint, profile="fast"))
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "config.json").write_text('{"vocab_size": 8}')
    info = tensorrt_llm_build.describe(made, tmp_path / "e", BuildInfo(), "1.2.1")
    assert info.runtime.profile == "latency"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.7}, "fp8 does not use: leave ALPHA= out"),
        ({"alpha_sweep": True}, "fp8 does not use: leave ALPHA= out"),
        ({"precision": "bf16", "calibration": Path(__file__)}, "without prompts: leave CALIBRATION= out"),
        ({"calibration": Path("/no/such/file")}, "does not exist"),
        ({"precision": "fp8", "gpu": "a100"}, "needs SM89"),
        ({"kv_dtype": "int4"}, "KV type"),
        ({"gpu": ""}, "no NVIDIA GPU here"),
    ],
)
def test_wrong_wishes_are_one_line(tmp_path, change, message):
    with pytest.raises(BuildError, match=message) as caught:
        tensorrt_llm_build.build(spec(tmp_path / "out", **change))
    assert "\n" not in str(caught.value)


def test_a_machine_that_cannot_build_is_told_before_anything_starts(tmp_path, capsys):
    with pytest.raises(BuildError, match=r"fault\(s\) above"):
        tensorrt_llm_build.build(spec(tmp_path / "out"))
    assert "FAULT  GPU" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


# ---- the engine directory


def finished(checkpoint: Path, out: Path, version: str = "", **wish) -> Recipe:
    """A recipe whose steps have run, as far as files go."""
    made = tensorrt_llm_build.recipe_of(spec(out, checkpoint, **wish))
    made.artefact.mkdir(parents=True, exist_ok=True)
    if made.backend == "engine":
        built = {"version": version or pinned("tensorrt_llm"), "build_config": {}}
        (made.artefact / "config.json").write_text(json.dumps(built))
        (made.artefact / "rank0.engine").write_bytes(b"engine")
        (made.artefact / STAMP).write_text("{}")
    return made


def test_the_engine_directory_is_complete_and_fits_the_schema(checkpoint, tmp_path):
    made = finished(checkpoint, tmp_path / "engines" / "default")
    target = tmp_path / "engines" / "assembled"
    target.mkdir()
    tensorrt_llm_build.assemble(made, target, BuildInfo(["a", "b"], "2026-11-22T00:00:00+00:00", 1.5, "host"))
    jsonschema.validate(json.loads((target / "engine.json").read_text()), SCHEMA)
    engine = engine_dir.read(target)
    assert (engine.precision, engine.kv_dtype, engine.gpu.sm) == ("fp8", "bf16", 90)
    assert engine.runtime.version == "1.2.1" and engine.runtime.backend == "engine"
    assert engine.limits.max_seq_len == 8192 and engine.model.vocab_size == 152064
    assert {"engine/rank0.engine", "tokenizer.json", "config.json"} <= set(engine.files)
    assert not any(STAMP in name for name in engine.files)
    assert (target / "engine" / "rank0.engine").stat().st_nlink == 2  # no second copy on disk


def test_a_pytorch_directory_holds_the_checkpoint(checkpoint, tmp_path):
    made = finished(checkpoint, tmp_path / "e" / "d", precision="bf16", backend="pytorch")
    target = tmp_path / "e" / "assembled"
    target.mkdir(parents=True)
    tensorrt_llm_build.assemble(made, target, BuildInfo())
    assert (target / "checkpoint" / "model.safetensors").read_bytes() == b"weights"
    assert engine_dir.read(target).runtime.backend == "pytorch"


def test_an_engine_of_another_version_is_refused(checkpoint, tmp_path):
    made = finished(checkpoint, tmp_path / "e" / "d", version="1.1.0")
    target = tmp_path / "assembled"
    target.mkdir()
    with pytest.raises(BuildError, match=r"version 1\.1\.0, pinned is 1\.2\.1"):
        tensorrt_llm_build.assemble(made, target, BuildInfo())
    assert not (target / "engine.json").exists()


def test_a_long_context_gets_its_own_config(checkpoint, tmp_path):
    from build_engine.tensorrt_llm.yarn import link_with_yarn

    output = tmp_path / "stretched"
    output.mkdir()
    link_with_yarn(checkpoint, output, 65536)
    config = json.loads((output / "config.json").read_text())
    assert config["rope_scaling"]["original_max_position_embeddings"] == 32768
    assert config["max_position_embeddings"] == 65536
    assert (output / "model.safetensors").is_symlink() and (output / "model.safetensors").read_bytes() == b"weights"
    assert "rope_scaling" not in json.loads((checkpoint / "config.json").read_text())
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(BuildError, match="more than the 65536 tokens of the rope_scaling"):
        link_with_yarn(output, again, 131072)


def test_the_positions_of_transformers_5_are_spelled_for_tensorrt_llm(checkpoint, tmp_path):
    """It would take 10,000 for the theta inside rope_parameters, and answer noise."""
    from build_engine.tensorrt_llm.yarn import link_with_yarn

    config = load_config(DEFAULT_MODEL)
    theta = config.pop("rope_theta")
    new = config | {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    (checkpoint / "config.json").write_text(json.dumps(new))
    recipe = tensorrt_llm_build.recipe_of(spec(tmp_path / "out", checkpoint))
    assert recipe.steps[0].name == "spell positions for older readers" and recipe.shaped == recipe.steps[0].output
    output = tmp_path / "spelled"
    output.mkdir()
    link_with_yarn(checkpoint, output, recipe.plan.max_seq_len)
    assert json.loads((output / "config.json").read_text()) == config | {"rope_theta": theta}


def test_a_failed_gate_fails_the_build_and_keeps_the_directory(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "engines" / "default"
    made = finished(checkpoint, out)
    monkeypatch.setattr(tensorrt_llm_build, "_image", lambda: None)
    monkeypatch.setattr(steps, "run", lambda _: ["quantize", "build"])
    monkeypatch.setattr(steps, "seconds", lambda _: 12.0)
    monkeypatch.setattr(Recipe, "verify_argv", lambda *_: (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(BuildError, match="failed its accuracy gate"):
        tensorrt_llm_build.run(made)
    assert engine_dir.read(out).build.commands[:2] == ["quantize", "build"]
