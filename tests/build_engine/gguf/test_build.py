"""``build --model FILE.gguf``: from the file to tokens, and what the command refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from build_engine.__main__ import main
from build_engine.checkpoint import Checkpoint
from build_engine.gguf.source import GgufSource
from contract import engine_dir
from tests.build_engine.gguf import files
from tests.build_engine.openvino.test_graph import answers
from tests.oracle import tiny
from tests.oracle.numpy_decoder import NumpyDecoder


def write(path: Path, name: str = "llama", kind: Kind = Kind.F32) -> Path:
    config = tiny.COMMON | tiny.CONFIGS[name]
    return files.write(path, config, tiny.tensors(config), kind)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_greedy_tokens_equal_those_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    reference = NumpyDecoder(Checkpoint(tiny.write(name, tmp_path / "m")))
    source = GgufSource(write(tmp_path / "m.gguf", name))
    prompts = tiny.prompts(3)
    wanted = [reference.greedy(prompt, 12) for prompt in prompts]
    assert answers(source.tensors(source.config), tmp_path, prompts, 12) == wanted


@pytest.mark.parametrize("precision", ["int8", "int4", "bf16", "fp32"])
def test_builds_a_complete_engine(precision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, out = write(tmp_path / "Tiny-Chat-Q4_0.gguf", kind=Kind.Q4_0), tmp_path / "engine"
    command = ["build", "--model", str(path), "--precision", precision, "--out", str(out)]
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    engine = engine_dir.read(out)
    assert (engine.model.name, engine.model.vocab_size, engine.limits.max_seq_len) == ("tiny-chat-q4_0", 512, 512)
    assert not engine.model.synthetic and engine.precision == precision
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert ("4 bits: use int8" in caplog.text) == (precision == "int4")
    stamp = (out / "engine.json").stat().st_mtime_ns
    assert main(command) == 0 and (out / "engine.json").stat().st_mtime_ns == stamp
    weights = (out / "openvino_model.bin").stat().st_size / GgufSource(path).tensors({}).parameters
    assert weights == pytest.approx({"int8": 1, "int4": 0.7, "bf16": 2, "fp32": 4}[precision], rel=0.12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere.gguf"], "there is no file nowhere.gguf"),
        (
            ["--model", "FILE", "--runtime", "vllm", "--precision", "bf16"],
            "only the CPU engine can read: RUNTIME=openvino",
        ),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "m.gguf")
    given = [str(path) if each == "FILE" else each for each in arguments]
    assert main(["build", *given, "--out", str(tmp_path / "engine")]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ") and message in text and text.count("\n") == 1
