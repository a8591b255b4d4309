"""What `build` and its make targets say before anything is written."""

from __future__ import annotations

import dataclasses
import logging
import subprocess

import pytest

from build_engine import build
from build_engine.__main__ import main
from build_engine.spec import BuildSpec
from contract import engine_dir, gpus
from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from contract.errors import BuildError
from contract.paths import ROOT

OLD = EngineInfo(ModelInfo("m", "s", vocab_size=8), RuntimeInfo("openvino"), "int8", "int8", EngineLimits(64, 63))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)


def test_gpu_is_never_ignored(tmp_path):
    with pytest.raises(BuildError, match=r"leave GPU=h100 out"):
        build.build(BuildSpec("synthetic", "int8", "openvino", tmp_path / "e", gpu="h100"))
    assert not (tmp_path / "e").exists()


def test_an_engine_of_another_runtime_is_not_replaced_without_a_word(tmp_path, caplog):
    engine_dir.write(OLD, tmp_path)
    spec = BuildSpec("m", "bf16", "vllm", tmp_path)
    with caplog.at_level(logging.WARNING):
        build._say_what_is_replaced(spec)
        build._say_what_is_replaced(dataclasses.replace(spec, runtime="openvino"))
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "holds the openvino engine" in caplog.text


def test_vllm_says_that_it_cannot_be_served_here(caplog):
    from build_engine.vllm import build as vllm_build

    vllm_build._say_where_it_cannot_be_served()
    assert "no NVIDIA GPU" in caplog.text


def test_preflight_without_a_driver_lists_every_fault(tmp_path, capsys):
    assert main(["preflight", "--out", str(tmp_path / "e")]) == 1
    out = capsys.readouterr().out
    assert "FAULT  GPU: none visible" in out and "disk:" in out and "container:" in out


@pytest.mark.parametrize("target", ["serve", "plan", "engine", "preflight", "verify"])
def test_every_target_refuses_an_unknown_runtime(target):
    answer = subprocess.run(
        ["make", "-n", target, "RUNTIME=vlm"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode and "RUNTIME=vlm is unknown: use one of" in answer.stderr


@pytest.mark.parametrize(("target", "option"), [("serve", "--engine"), ("engine", "--out"), ("verify", "--engine")])
def test_an_engine_path_may_have_any_character(target, option):
    """With a program that prints its arguments, one a line, in the place of Python."""
    path = """my engines/a "b" it's $HOME"""
    command = ["make", "-s", target, "PYTHON=true", "PY=printf '%s\\n'", "ENGINE=" + path.replace("$", "$$")]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    assert lines[lines.index(option) + 1] == path
