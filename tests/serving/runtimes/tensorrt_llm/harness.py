"""A runtime on the stand-in for TensorRT-LLM, and engine directories for it."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import venv
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from build_engine import tokenizer_files
from contract import engine_dir
from contract.engine_dir import EngineInfo, EngineLimits, GpuInfo, ModelInfo, RuntimeInfo
from contract.paths import ROOT
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, RuntimeOptions
from tests.waiting import until

WORD = "zqxjkv"
STANDINS = ROOT / "tests" / "standins"
END, END_OF_TEXT = 151645, 151643
MODEL_CONFIG = ROOT / "build_engine" / "data" / "qwen2.5-7b-instruct.config.json"
ENGINE, TORCH, TORCH_14 = ("engine", "1.2.1"), ("pytorch", "1.2.1"), ("pytorch", "1.4")
ALL = [ENGINE, TORCH, TORCH_14]
H100 = "NVIDIA H100 80GB HBM3, 81559, 80000, 9.0, 590.44.01"


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def write_engine(path: Path, backend: str, version: str = "1.2.1", kv_dtype: str = "bf16", **limits: int) -> EngineInfo:
    build = {"max_batch_size": 64, "max_num_tokens": 16384, "max_seq_len": 8192, "max_input_len": 8191} | limits
    folder = path / ("engine" if backend == "engine" else "checkpoint")
    folder.mkdir(parents=True)
    engine = {"version": version, "build_config": build, "pretrained_config": {"mapping": {"tp_size": 1}}}
    (folder / "config.json").write_text(json.dumps(engine))
    (path / "config.json").write_text(MODEL_CONFIG.read_text())
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, END_OF_TEXT]}))
    Tokenizer(models.WordLevel({WORD: 5}, unk_token=WORD)).save(str(path / "tokenizer.json"))
    return EngineInfo(
        model=ModelInfo("qwen2.5-7b-instruct", "test", vocab_size=152064),
        runtime=RuntimeInfo("tensorrt_llm", version, backend),
        precision="fp8",
        kv_dtype=kv_dtype,
        limits=EngineLimits(8192, 8191, 64, 8192),
        gpu=GpuInfo("NVIDIA H100 80GB HBM3", 90, 1),
        path=path,
    )


class Harness:
    """A runtime on the stand-in, with what it delivered."""

    def __init__(
        self,
        path: Path,
        backend: str,
        version: str,
        options: RuntimeOptions,
        worker: bool = False,
        guides_ignored: bool = False,
        **create: bool,
    ) -> None:
        self.steps, self.deaths = [], []
        module = importlib.import_module("serving.runtimes.tensorrt_llm.runtime")
        self.control = importlib.import_module("tensorrt_llm.control")
        self.control.worker_process, self.control.guides_ignored = worker, guides_ignored
        engine = write_engine(path, backend, version)
        self.runtime = module.create(engine, options, self.steps.append, self.deaths.append, **create)
        self.control.requests.clear()  # of loading
        self.llm = self.control.llms[-1]

    def submit(self, sequence_id: int, prompt: list[int], **sampling) -> None:
        sampling = {"max_tokens": 8, "stop_token_ids": (END, END_OF_TEXT), "temperature": 0.0} | sampling
        self.runtime.submit(EngineRequest(sequence_id, prompt, Sampling(**sampling)))

    def deltas(self, sequence_id: int):
        return [delta for step in list(self.steps) for delta in step if delta.sequence_id == sequence_id]

    def wait(self, *sequence_ids: int, seconds: float = 10) -> None:
        until(lambda: all(any(d.finish_reason for d in self.deltas(i)) for i in sequence_ids), seconds)

    def tokens(self, sequence_id: int) -> list[int]:
        return [token for delta in self.deltas(sequence_id) for token in delta.token_ids]


def write_engine_directory(path: Path) -> Path:
    """A complete one, that the launcher takes."""
    engine = write_engine(path, "engine")
    config = json.loads((path / "config.json").read_text())
    tokenizer_files.write(path)
    (path / "config.json").write_text(json.dumps({**config, "vocab_size": 152064}))
    engine_dir.write(engine, path)
    return path


def pretend_h100(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What this process starts finds an H100 and the stand-in."""
    tools = script(folder, "nvidia-smi", f"echo {H100!r}").parent
    patch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    patch.setattr(sys, "executable", str(environment_with_standin(folder / "venv")))


def environment_with_standin(folder: Path) -> Path:
    """A virtual environment that has ours and the stand-in. Triton's stub ignores PYTHONPATH but finds this by PATH."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "standin.pth").write_text("\n".join([str(STANDINS), *ours]) + "\n")
    pointer = Path(sys.prefix) / "libpython.path"
    if pointer.is_file():
        shutil.copyfile(pointer, folder / "libpython.path")
    return folder / "bin" / "python3"


def script(folder: Path, name: str, line: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path
