"""The build command: what it writes, when it does nothing, and its errors."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import pytest

from build_engine import staging
from build_engine.__main__ import main
from build_engine.openvino import build as openvino_build
from build_engine.openvino.weights import pack_nibbles, quantize_int8, quantize_unsigned
from build_engine.rope import frequencies
from build_engine.synthetic import checkpoint as synthetic
from contract import engine_dir
from contract.model_shape import ModelShape
from contract.paths import ROOT
from serving import session_dir


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "m"
    synthetic.write(ModelShape("s", 2, 128, 2, 1, 256, 1024, head_dim=64), path)
    return path


def run(*arguments: object) -> int:
    return main(["build", *map(str, arguments)])


@pytest.mark.parametrize("precision", ["int8", "int4", "bf16", "fp32"])
def test_builds_a_complete_engine(checkpoint: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "engine"
    assert run("--model", checkpoint, "--precision", precision, "--out", out, "--context", 512) == 0
    engine = engine_dir.read(out)
    assert (engine.precision, engine.limits.max_seq_len, engine.model.vocab_size) == (precision, 512, 1024)
    assert engine.model.synthetic and engine.runtime.name == "openvino"
    assert engine.build.commands[0].startswith("python -m build_engine build --model")
    for name in ("openvino_model.xml", "openvino_model.bin", "tokenizer.json", "generation_config.json"):
        assert engine.files[name].sha256 == staging.sha256(out / name)
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


def test_what_is_up_to_date_is_not_built_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "engine"
    assert run("--model", checkpoint, "--out", out) == 0
    first = (out / "engine.json").stat().st_mtime_ns
    assert run("--model", checkpoint, "--out", out) == 0
    assert (out / "engine.json").stat().st_mtime_ns == first
    assert run("--model", checkpoint, "--out", out, "--force") == 0
    assert (out / "engine.json").stat().st_mtime_ns > first


def test_an_interrupted_build_leaves_the_old_engine(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "engine"
    assert run("--model", checkpoint, "--out", out) == 0
    before = (out / "engine.json").read_text()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino_build, "convert", interrupted)
    assert run("--model", checkpoint, "--out", out, "--precision", "int4") == 130
    assert (out / "engine.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]
    assert "interrupted" in capsys.readouterr().err


def test_leftovers_of_a_killed_build_are_cleared(checkpoint: Path, tmp_path: Path) -> None:
    left, lock = session_dir.create(tmp_path, staging.SCRATCH, socket.gethostname())
    (left / "partial").mkdir()
    lock.close()  # as the kernel does when its process is killed
    assert run("--model", checkpoint, "--out", tmp_path / "engine") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "nowhere"],
            "neither a directory, a .gguf file, smollm2, synthetic, synthetic-0.5b, synthetic-7b nor",
        ),
        (
            ["--model", "./not/there"],
            "neither a directory, a .gguf file, smollm2, synthetic, synthetic-0.5b, synthetic-7b nor",
        ),
        (["--model", "CKPT", "--precision", "int3"], "'int3' is unknown: use one of"),
        (["--model", "CKPT", "--runtime", "onnx"], "no builder 'onnx'"),
        (["--model", "CKPT", "--precision", "fp8", "--runtime", "openvino"], "openvino cannot do fp8"),
        (["--model", "CKPT", "--context", "1"], "context 1 is out of range"),
    ],
)
def test_errors_are_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    arguments = [str(checkpoint) if a == "CKPT" else a for a in arguments]
    assert run(*arguments, "--out", tmp_path / "engine") == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ") and message in text and text.count("\n") == 1
    assert not (tmp_path / "engine").exists()


def test_a_full_disk_is_foreseen(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert run("--model", checkpoint, "--out", tmp_path / "engine") == 1
    assert " has 0 MB free and about 3" in (said := capsys.readouterr().err), said
    assert said.endswith("choose another directory with ENGINE=\n")


def test_a_disk_that_fills_meanwhile_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit of a file's size stands for the disk: the tokenizer's files fit, the weights do not."""
    checkpoint, out = tmp_path / "m", tmp_path / "engine"
    synthetic.write(ModelShape("s", 2, 512, 8, 2, 4096, 1024, head_dim=64), checkpoint)
    command = [sys.executable, "-m", "build_engine", "build"]
    command += ["--model", str(checkpoint), "--out", str(out)]
    largest = max(path.stat().st_size for path in checkpoint.iterdir() if path.suffix != ".safetensors")
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: the engine cannot be written (")
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*engine*"))


def test_longer_contexts_switch_yarn_on(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    assert run("--model", checkpoint, "--out", out, "--context", 65536) == 0
    engine = engine_dir.read(out)
    assert engine.rope_scaling and engine.rope_scaling["rope_type"] == "yarn"
    assert json.loads((out / "config.json").read_text())["rope_scaling"]["original_max_position_embeddings"] == 32768


def test_unknown_rope_scaling_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rope_scaling": {"type": "longrope", "factor": 2}}))
    assert run("--model", model, "--out", tmp_path / "engine") == 1
    assert "'longrope' is not supported" in capsys.readouterr().err


def test_yarn_keeps_fast_dimensions_and_slows_slow_ones() -> None:
    config = {"rope_theta": 1e6, "max_position_embeddings": 131072}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    plain, one = frequencies(config, 128)
    scaled, factor = frequencies({**config, "rope_scaling": yarn}, 128)
    assert one == 1.0 and factor == pytest.approx(1.1386294)
    assert scaled[0] == plain[0] and scaled[-1] == pytest.approx(plain[-1] / 4)
    assert (np.diff(scaled) < 0).all()


def test_int8_error_is_at_most_half_a_step() -> None:
    weight = np.random.default_rng(1).normal(size=(64, 256)).astype(np.float32)
    values, scales = quantize_int8(weight)
    exact = scales.astype(np.float32)
    # float16 scales may round down by 2^-11, which clips the largest value of a row a little
    assert (np.abs(values * exact - weight) <= exact * 0.5 + np.abs(weight).max(1, keepdims=True) / 1024).all()
    assert not quantize_int8(np.zeros((2, 4), np.float32))[0].any()


@pytest.mark.parametrize("top", [15, 255])
def test_unsigned_keeps_zero_exact(top: int) -> None:
    weight = np.random.default_rng(2).normal(0.3, 1, size=(32, 128)).astype(np.float32)
    weight[:, 0] = 0
    values, zeros, scales = quantize_unsigned(weight, top)
    back = (values.astype(np.float32) - zeros) * scales.astype(np.float32)
    assert (back[:, 0] == 0).all() and np.abs(back - weight).max() <= scales.max() * 1.01


def test_nibbles_are_low_half_first() -> None:
    assert pack_nibbles(np.array([1, 2, 3], np.uint8)).tolist() == [0x21, 0x03]


def test_an_unreachable_hub_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def no_network(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_network)
    assert run("--model", "Qwen/Qwen2.5-0.5B-Instruct", "--runtime", "openvino", "--out", tmp_path / "engine") == 1
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith("error: Qwen/Qwen2.5-0.5B-Instruct cannot be fetched (Name or service not known)")
    assert "MODEL=/path" in text and "MODEL=smollm2" in text
