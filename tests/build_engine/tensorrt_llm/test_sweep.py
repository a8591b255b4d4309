"""``ALPHA=sweep``: every strength is built and measured, the best is kept, and an interrupted sweep goes on."""

from __future__ import annotations

import dataclasses
import json

import pytest

from build_engine.__main__ import main
from build_engine.plan.model import DEFAULT_MODEL
from build_engine.spec import BuildSpec
from build_engine.tensorrt_llm import build as tensorrt_llm_build
from build_engine.tensorrt_llm import sweep
from contract import engine_dir, gpus
from contract.errors import BuildError
from tests.serving.runtimes.tensorrt_llm.harness import write_engine

KL = {0.4: 0.04, 0.5: 0.02, 0.6: 0.01, 0.7: 0.03, 0.8: 0.2}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)


@pytest.fixture
def tried(tmp_path):
    spec = BuildSpec(DEFAULT_MODEL, "int8_sq", "tensorrt_llm", tmp_path / "default", gpu="a100", alpha_sweep=True)
    return sweep.recipes(spec, tensorrt_llm_build.recipe_of)


def builder(passes, built):
    """Plays `build.run`: makes the steps' directories and an engine whose gate has judged."""

    def build(recipe):
        built.append(recipe.alpha)
        for step in recipe.steps:
            step.output.mkdir(parents=True, exist_ok=True)
        engine = write_engine(recipe.spec.out, "engine")
        ok = recipe.alpha in passes
        accuracy = {"passed": ok, "mean_kl": KL[recipe.alpha], "greedy_agreement": 0.9, "confident_agreement": 1.0,
                    "perplexity_drift": 0.01, "repetition_rise": 0.0}  # fmt: skip
        engine_dir.write(dataclasses.replace(engine, accuracy=accuracy), recipe.spec.out)
        if not ok:
            raise BuildError("failed its accuracy gate")

    return build


def test_the_best_that_passes_becomes_the_engine_and_the_others_go(tried, tmp_path, capsys):
    sweep.run(tried, tmp_path / "default", builder({0.4, 0.5, 0.7}, built := []))
    assert built == list(sweep.ALPHAS), "0.6 has the least divergence but loops: it does not pass"
    assert engine_dir.read(tmp_path / "default").accuracy["mean_kl"] == KL[0.5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".build", "default", "default-alpha-sweep.json"]
    left = {path.name.rpartition("-")[0] for path in (tmp_path / ".build").iterdir()}
    assert left == {"calibration", "fetch", "int8_sq-checkpoint", "engine-sm80"}
    assert len(list((tmp_path / ".build").glob("int8_sq-checkpoint-*"))) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["alpha", "agreement", "confident", "KL", "perplexity", "loops"]
    assert [line.split()[-1] for line in lines[1:]] == ["passes", "passes", "fails", "passes", "fails"]


def test_two_engines_lie_on_disk_at_a_time(tried, tmp_path):
    most = []
    play = builder(set(KL), [])

    def build(recipe):
        play(recipe)
        most.append(len(list(tmp_path.glob("default-alpha-0*"))))

    sweep.run(tried, tmp_path / "default", build)
    assert max(most) == 2


def test_an_interrupted_sweep_goes_on(tried, tmp_path):
    play = builder(set(KL), built := [])

    def interrupted(recipe):
        if recipe.alpha == 0.7:
            raise KeyboardInterrupt
        play(recipe)

    with pytest.raises(KeyboardInterrupt):
        sweep.run(tried, tmp_path / "default", interrupted)
    sweep.run(tried, tmp_path / "default", play)
    assert built == [0.4, 0.5, 0.6, 0.7, 0.8]
    assert engine_dir.read(tmp_path / "default").accuracy["mean_kl"] == KL[0.6]


def test_none_that_passes_is_one_line_with_the_nearest(tried, tmp_path):
    with pytest.raises(BuildError, match=r"no alpha passes .* 0\.6 comes nearest .*PRECISION=int8_wo") as caught:
        sweep.run(tried, tmp_path / "default", builder(set(), []))
    assert "\n" not in str(caught.value) and not (tmp_path / "default").exists()
    assert (tmp_path / "default-alpha-0.6" / "engine.json").is_file()


def test_a_build_that_fails_before_the_gate_ends_the_sweep(tried, tmp_path):
    def build(recipe):
        raise BuildError("step quantize to int8_sq failed with exit code 1")

    with pytest.raises(BuildError, match="exit code 1"):
        sweep.run(tried, tmp_path / "default", build)


def test_what_is_not_an_engine_is_not_replaced(tried, tmp_path):
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "thesis.tex").write_text("x")
    with pytest.raises(BuildError, match="not something this command wrote"):
        sweep.run(tried, tmp_path / "default", builder(set(KL), built := []))
    assert built == []


def test_the_command_prints_every_strength(tmp_path, capsys):
    arguments = ["--runtime", "tensorrt_llm", "--gpu", "a100", "--alpha", "sweep", "--dry-run"]
    assert main(["build", "--model", DEFAULT_MODEL, "--out", str(tmp_path / "e"), *arguments]) == 0
    text = capsys.readouterr().out
    assert [f"--smoothquant {alpha:g} " in text for alpha in sweep.ALPHAS] == [True] * 5
    assert list(tmp_path.iterdir()) == []


def test_the_notes_are_readable(tried, tmp_path):
    sweep.run(tried, tmp_path / "default", builder(set(KL), []))
    notes = json.loads((tmp_path / "default-alpha-sweep.json").read_text())
    assert set(notes) == {recipe.artefact.name for recipe in tried}
