"""`make serve` of a TensorRT-LLM engine on a Docker host. No Docker here: the command line and the refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from contract import engine_dir, gpus
from contract.engine_dir import EngineInfo, EngineLimits, GpuInfo, ModelInfo, RuntimeInfo
from serving import __main__ as launcher
from serving.host import container
from serving.host.ports import free_ports
from serving.launch import docker
from serving.launch.config import LaunchError, parse

H100 = "NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 590.44.01"
ENGINE = EngineInfo(
    ModelInfo("qwen2.5-7b-instruct", "s"), RuntimeInfo("tensorrt_llm", "1.2.1", "engine"), "fp8", "bf16",
    EngineLimits(8192, 8191), GpuInfo("NVIDIA H100 80GB HBM3", 90, 1),
)  # fmt: skip


@pytest.fixture
def here(monkeypatch):
    """``here(*nvidia-smi lines)`` makes this machine have those GPUs."""
    return lambda *lines: monkeypatch.setattr(gpus, "detect", lambda: gpus.parse_smi("\n".join(lines)))


def test_only_tensorrt_llm_needs_the_container():
    assert docker.needed(ENGINE)
    assert not docker.needed(dataclasses.replace(ENGINE, runtime=RuntimeInfo("openvino")))


def test_the_container_gets_the_options_of_make_serve(tmp_path):
    options = ["--engine", str(tmp_path), "--http-port", "18200", "--gateway-port", "0", "--queue-limit", "7"]
    config = parse([*options, "--drain", "3", "--max-streams", "64", "--threads", "2", "--gpu-memory-fraction", "0.5"])
    argv = docker.command(config)
    inside = parse(argv[argv.index("serving") + 1 :])
    assert inside == dataclasses.replace(config, triton_host="0.0.0.0")
    assert container.image() in argv and "127.0.0.1:18200:18200" in argv


def test_only_the_gateway_follows_host(tmp_path):
    argv = docker.command(parse(["--engine", str(tmp_path), "--host", "0.0.0.0"]))
    assert [part for part in argv if part.startswith("0.0.0.0:")] == ["0.0.0.0:8080:8080"]


def test_a_misfit_stops_before_docker_starts(here, tmp_path, capsys, monkeypatch):
    here("NVIDIA A100-SXM4-80GB, 81920, 80000, 8.0, 590.44.01")
    engine_dir.write(ENGINE, tmp_path)
    names = ("--http-port", "--grpc-port", "--metrics-port", "--gateway-port")
    ports = [f"{name}={port}" for name, port in zip(names, free_ports(4), strict=True)]
    monkeypatch.setattr("sys.argv", ["serving", "--engine", str(tmp_path), *ports])
    assert launcher.main() == 1
    assert "built for SM90" in capsys.readouterr().err


def test_a_fitting_engine_becomes_docker_run(here, tmp_path, monkeypatch):
    here(H100)
    engine_dir.write(ENGINE, tmp_path)
    started = []
    monkeypatch.setattr(docker.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(docker.os, "execvp", lambda name, argv: started.append(argv))
    docker.require_fit(engine_dir.read(tmp_path))
    docker.replace_process(parse(["--engine", str(tmp_path)]))
    assert started[0][:2] == ["docker", "run"]


def test_without_docker_one_line_says_so(monkeypatch):
    monkeypatch.setattr(docker.shutil, "which", lambda name: None)
    with pytest.raises(LaunchError, match="install Docker"):
        docker.replace_process(parse(["--engine", str(Path("/tmp"))]))
