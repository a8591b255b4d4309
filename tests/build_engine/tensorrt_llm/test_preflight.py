"""Each fault of a machine has one remedy; a good machine has none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from build_engine.__main__ import main
from build_engine.plan import profiles
from build_engine.plan.fit import PlanRequest
from build_engine.plan.model import DEFAULT_MODEL, load, load_config
from build_engine.plan.planner import plan
from build_engine.quantized import of_model
from build_engine.spec import BuildSpec
from build_engine.tensorrt_llm import preflight
from build_engine.tensorrt_llm.preflight import Facts, disk_need, examine, runtimes
from build_engine.tensorrt_llm.recipe import Recipe
from contract import gpus
from contract.model_shape import GIB

SHAPE = load(DEFAULT_MODEL)
H100 = "NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 590.44.01"
GOOD = Facts(tuple(gpus.parse_smi(H100)), False, "", True, 500 * GIB, (), "")


def job(
    model=DEFAULT_MODEL, gpu="h100", precision="auto", tp=1, revision="", out=Path("/tmp/engines/default")
) -> Recipe:
    asked = PlanRequest(gpus.by_name(gpu), profiles.PROFILES["chat"], precision, tensor_parallel=tp)
    spec = BuildSpec(str(model), precision, "tensorrt_llm", out, revision=revision or None)
    return Recipe(spec, plan(SHAPE, asked))


def faults(facts: Facts, wish: Recipe) -> dict[str, str]:
    return {finding.name: finding.text for finding in examine(facts, wish, SHAPE) if not finding.ok}


def test_a_good_machine_has_no_fault():
    assert faults(GOOD, job()) == {}
    assert {finding.name for finding in examine(GOOD, job(), SHAPE)} >= {"GPU", "driver", "container", "disk"}


def with_gpu(line: str) -> Facts:
    return dataclasses.replace(GOOD, gpus=tuple(gpus.parse_smi(line)))


CASES = [
    (dataclasses.replace(GOOD, gpus=()), job(), "GPU", "install NVIDIA's driver"),
    (with_gpu("NVIDIA L40S, 46068, 46000, 8.9, 590.44.01"), job(), "GPU", "leave GPU= out"),
    (GOOD, job(tp=2), "GPU", "use TP=1"),
    (with_gpu("NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 570.10"), job(), "driver", "install 590.44.01"),
    (with_gpu("NVIDIA GeForce RTX 4090, 24564, 24000, 8.9, 580.95.05"), job(gpu="4090"), "driver", "too old"),
    (dataclasses.replace(GOOD, docker="Docker is not installed: install"), job(), "container", "install"),
    (dataclasses.replace(GOOD, disk_free=10 * GIB), job(), "disk", "free some space"),
    (with_gpu("NVIDIA H100 80GB HBM3, 81559, 9000, 9.0, 590.44.01"), job(), "GPU memory", "stop other programs"),
    (dataclasses.replace(GOOD, in_container=True, installed="1.1.0"), job(), "TensorRT-LLM", "pinned is 1.2.1"),
]


@pytest.mark.parametrize(("facts", "wish", "name", "remedy"), CASES)
def test_each_fault_is_named_alone_with_its_remedy(facts, wish, name, remedy):
    found = faults(facts, wish)
    assert list(found) == [name]
    assert remedy in found[name] and "\n" not in found[name]


def test_a_data_centre_driver_of_580_is_enough():
    assert faults(with_gpu("NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 580.65.06"), job()) == {}


def test_disk_counts_download_image_and_both_artefacts(tmp_path):
    assert disk_need(job(), SHAPE) > disk_need(job(model=tmp_path), SHAPE) + 14 * GIB
    low = dataclasses.replace(GOOD, image_present=False, disk_free=disk_need(job(), SHAPE) + GIB)
    assert "disk" in faults(low, job())


@pytest.fixture
def local(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(load_config(DEFAULT_MODEL)))
    return tmp_path


def test_checkpoint_faults(local):
    missing = dataclasses.replace(GOOD, model_missing=("model-00002-of-00004.safetensors",))
    assert "lacks model-00002" in faults(missing, job(local))["checkpoint"]
    (local / "revision.txt").write_text("abc123\n")
    assert "is revision abc123" in faults(GOOD, job(local, revision="fff"))["checkpoint"]
    assert faults(GOOD, job(local, revision="abc123")) == {}
    quantized = {**load_config(DEFAULT_MODEL), "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (local / "config.json").write_text(json.dumps(quantized))
    wish = job(local)
    wish.quantized = of_model(str(local))
    assert "already quantized (GPTQ, 4 bit)" in faults(GOOD, wish)["checkpoint"]


def test_what_cannot_be_planned_is_one_fault_among_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpus, "detect", list)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["preflight", "--model", DEFAULT_MODEL, "--gpu", "h100", "--tp", "3"]
    assert main([*command, "--out", str(tmp_path / "e")]) == 1
    printed = capsys.readouterr()
    faults = [line.partition(":")[0] for line in printed.out.splitlines() if line.startswith("FAULT")]
    assert faults[:3] == ["FAULT  plan", "FAULT  GPU", "FAULT  container"]
    assert "tensor parallel size 3 does not divide" in printed.out
    assert "the first is plan; nothing was changed" in printed.err


def test_inside_the_container_a_missing_package_is_a_fault(monkeypatch):
    facts = dataclasses.replace(GOOD, in_container=True, installed="")
    assert "PyPI has only a stub" in faults(facts, job())["TensorRT-LLM"]
    monkeypatch.setattr(preflight.container, "inside", lambda: True)
    assert preflight.gather(job()).installed == ""  # not the pinned version, as on a Docker host


def test_docker_answers_are_understood():
    assert "nvidia" in runtimes('{"io.containerd.runc.v2":{},"nvidia":{"path":"nvidia-container-runtime"}}')
    assert runtimes("permission denied") == [] and runtimes("[]") == []


def test_this_machine_can_be_asked(tmp_path):
    facts = preflight.gather(job(out=tmp_path / "not" / "yet" / "there"))
    assert facts.disk_free > 0 and isinstance(facts.docker, str)
