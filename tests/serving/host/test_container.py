"""``docker run`` for serving, and whether an engine fits a machine."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

from contract import gpus
from contract.engine_dir import EngineInfo, EngineLimits, FileInfo, GpuInfo, ModelInfo, RuntimeInfo
from contract.versions import ROOT, pinned, version_tuple
from serving.host import container, machine
from serving.host.container import Mount
from serving.launch.config import parse

PORTS = {"HTTP_PORT": 8000, "GRPC_PORT": 8001, "METRICS_PORT": 8002, "GATEWAY_PORT": 8080}
ADDRESSES = {name: ("127.0.0.1", port) for name, port in PORTS.items()}


def values(command: list[str], option: str) -> list[str]:
    return [command[index + 1] for index, part in enumerate(command) if part == option]


def test_serve_command(tmp_path):
    command = container.serve_command(tmp_path / "engine", ADDRESSES, arguments=["--drain", "5"])
    assert command[:4] == ["docker", "run", "--rm", "--init"]
    assert "--shm-size=8g" in command and values(command, "--ulimit") == ["memlock=-1", "stack=67108864"]
    assert values(command, "--publish") == [f"127.0.0.1:{port}:{port}" for port in PORTS.values()]
    volumes = values(command, "--volume")
    assert f"{ROOT}:{ROOT}:ro" in volumes and f"{tmp_path}/engine:{tmp_path}/engine:ro" in volumes
    inside = command[command.index(container.image()) + 1 :]
    assert inside[:3] == ["python3", "-m", "serving"]
    config = parse(inside[3:])  # the launcher in the container understands them
    assert (config.engine, config.host, config.triton_host) == (tmp_path / "engine", "0.0.0.0", "0.0.0.0")
    assert (config.drain, config.ports) == (5, PORTS)


def test_another_host_must_be_asked_for_and_the_gateway_may_be_left_out():
    command = container.serve_command(Path("/e"), {"HTTP_PORT": ("::1", 9000)})
    assert values(command, "--publish") == ["[::1]:9000:9000"]
    assert values(command, "--gateway-port") == ["0"]


def test_the_image_has_every_package_that_is_imported_there():
    """What the container runs imports only the standard library, the image's own packages and those added to it."""
    in_image = {"numpy", "torch", "transformers", "tensorrt_llm", "modelopt", "triton_python_backend_utils", "tomli"}
    other_runtimes = {"openvino", "vllm", "triton", "zmq", "llguidance", "llmcompressor", "datasets", "uvloop", "gguf"}
    optional = {"opentelemetry"}  # looked for before it is imported (serving/tracing.py)
    added = {name.split("[")[0] for name in container.PACKAGES}
    added |= {"grpc", "httptools"}  # of tritonclient[grpc] and uvicorn[standard]
    ours = {"contract", "serving", "client", "build_engine", "loadtest"}
    for folder in ("contract", "serving", "client", "build_engine", "model_repository"):
        for path in (ROOT / folder).rglob("*.py"):
            foreign = (
                imported(path)
                - {*sys.stdlib_module_names, "tomllib"}
                - in_image
                - other_runtimes
                - optional
                - added
                - ours
            )
            assert not foreign, (path, foreign)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_secrets_are_passed_by_name_only(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    command = container.run_command(["true"], [])
    assert "HF_TOKEN" in values(command, "--env") and not any("hf_secret" in part for part in command)


def test_tensorrt_llms_own_variables_reach_the_container(monkeypatch):
    """``TLLM_WORKER_USE_SINGLE_PROCESS=1`` is the only way out when MPI cannot spawn a worker."""
    monkeypatch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" in values(container.run_command(["true"], []), "--env")


def test_the_gateways_keys_and_limits_reach_the_container(monkeypatch, tmp_path):
    """A gateway that has keys on the host must not be open in the container."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_API_KEYS", "secret")
    monkeypatch.setenv("GATEWAY_API_KEYS_FILE", "keys.txt")
    monkeypatch.setenv("GATEWAY_PORT", "1")
    command = container.serve_command(Path("/e"), {"GATEWAY_PORT": ("127.0.0.1", 9000)})
    passed = values(command, "--env")
    assert "GATEWAY_API_KEYS" in passed and not any("secret" in part for part in command)
    assert f"GATEWAY_API_KEYS_FILE={tmp_path}/keys.txt" in passed and "GATEWAY_API_KEYS_FILE" not in passed
    assert f"{tmp_path}/keys.txt:{tmp_path}/keys.txt:ro" in values(command, "--volume")
    assert not any(part.startswith("GATEWAY_PORT") for part in passed)


def test_a_path_is_mounted_once_and_writable_if_anyone_writes():
    command = container.run_command(["true"], [Mount(Path("/a")), Mount(Path("/a"), writable=True), Mount(Path("/b"))])
    assert values(command, "--volume") == ["/a:/a", "/b:/b:ro"]


def test_the_image_is_built_from_the_pinned_container():
    command = container.image_command()
    assert f"BASE={pinned('tensorrt_llm', 'container')}" in command
    packages = next(part for part in command if part.startswith("PACKAGES=")).removeprefix("PACKAGES=").split()
    assert all(">=" in package for package in packages), "without a floor pip goes back to whatever fits"
    imports = next(part for part in command if part.startswith("IMPORTS="))
    assert "tritonclient.grpc" in imports
    dockerfile = (ROOT / "build_engine" / "Dockerfile.tensorrt_llm").read_text()
    assert 'RUN python3 -c "import ${IMPORTS}"' in dockerfile


@pytest.mark.parametrize(
    ("text", "value"), [("1.2.1", (1, 2, 1)), ("1.4.0rc1", (1, 4, 0)), ("590.44.01", (590, 44, 1))]
)
def test_versions_compare_as_numbers(text, value):
    assert version_tuple(text) == value


# ---- machine.check

H100 = gpus.parse_smi("NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 590.44.01")
A100 = gpus.parse_smi("NVIDIA A100-SXM4-80GB, 81920, 80000, 8.0, 590.44.01")
ENGINE = EngineInfo(
    ModelInfo("q", "s"), RuntimeInfo("tensorrt_llm", "1.2.1", "engine"), "fp8", "bf16",
    EngineLimits(8192, 8191), GpuInfo("NVIDIA H100 80GB HBM3", 90, 1), path=Path("engines/default"),
)  # fmt: skip


def problems(engine=ENGINE, found=H100, installed="1.2.1") -> list[str]:
    return machine.check(engine, gpus=found, installed=installed)


def test_an_engine_fits_where_it_was_built():
    assert problems() == []


def test_cpu_engines_fit_everywhere():
    cpu = dataclasses.replace(ENGINE, runtime=RuntimeInfo("openvino"), gpu=None, kv_dtype="int8", precision="int8")
    assert problems(cpu, found=[]) == []


PYTORCH = dataclasses.replace(ENGINE, runtime=RuntimeInfo("tensorrt_llm", "1.2.1", "pytorch"))
BIG = dataclasses.replace(ENGINE, files={"engine/rank0.engine": FileInfo("0" * 64, 90 * 1024**3)})
MISFITS = [
    (ENGINE, A100, "1.2.1", "built for SM90"),
    (ENGINE, [], "1.2.1", "none is visible"),
    (ENGINE, H100, "1.1.0", "not interchangeable"),
    (ENGINE, H100, "1.4.0rc1", "no longer loads TensorRT engines"),
    (PYTORCH, A100, "1.2.1", "FP8 needs SM89"),
    (dataclasses.replace(ENGINE, gpu=GpuInfo("x", 90, 2)), H100, "1.2.1", "needs 2 GPUs"),
    (BIG, H100, "1.2.1", "90.0 GiB per GPU"),
    (dataclasses.replace(ENGINE, kv_dtype="fp8"), H100, "1.2.1", "make verify"),
    (dataclasses.replace(ENGINE, accuracy={"passed": False}), H100, "1.2.1", "failed its accuracy gate"),
]


@pytest.mark.parametrize(("engine", "found", "installed", "text"), MISFITS)
def test_each_disagreement_is_one_line(engine, found, installed, text):
    lines = problems(engine, found, installed)
    assert len(lines) == 1 and text in lines[0] and "\n" not in lines[0]


def test_a_passed_gate_opens_the_way_for_a_quantized_kv_cache():
    assert problems(dataclasses.replace(ENGINE, kv_dtype="fp8", accuracy={"passed": True})) == []


def test_another_pytorch_version_is_accepted_because_checkpoints_move():
    assert problems(PYTORCH, installed="1.4.0rc1") == []
