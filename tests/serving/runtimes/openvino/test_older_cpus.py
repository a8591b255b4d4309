"""The kernels of CPUs without BF16, AVX-512 or VNNI, which oneDNN takes when it is told not to use more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint
from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from build_engine.synthetic import checkpoint as synthetic
from contract.model_shape import ModelShape
from contract.paths import ROOT
from serving.runtimes.openvino.settings import cpu_flags
from tests.oracle.numpy_decoder import NumpyDecoder

SHAPE = ModelShape("s", 2, 128, 2, 1, 256, 1024, head_dim=64)
PROMPT = np.random.default_rng(3).integers(0, SHAPE.vocab, 40).tolist()
CHILD = """
import json, sys
from pathlib import Path
from typing import Any
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino import model
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine

path, precision, flags, prompt = Path(sys.argv[1]), sys.argv[2], frozenset(sys.argv[3].split()), json.loads(sys.argv[4])
model.cpu_flags = lambda: flags
paged = model.PagedModel(path, precision)
paged.allocate(8)
engine = Engine(paged, BlockPool(8), 4, 128)
engine.submit(EngineRequest(0, prompt, Sampling(12, temperature=0.0, logprobs=1)))
tokens, log_probs = [], []
while engine.busy:
    for delta in engine.step():
        tokens += delta.token_ids
        log_probs += delta.logprobs
print(json.dumps([tokens, log_probs]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "m"
    synthetic.write(SHAPE, path, seed=4)
    return path


def kernels(isa: str, flags: str) -> Any:
    """oneDNN takes no kernels that this CPU lacks, whatever it is told: a Zen 4 has AVX-512 and no AVX2_VNNI."""
    lacking = set(flags.split()) - cpu_flags()
    return pytest.param(isa, flags, id=isa, marks=pytest.mark.skipif(bool(lacking), reason=f"no {lacking} here"))


def answer(engine: Path, precision: str, isa: str, flags: str) -> tuple[list[int], list[float]]:
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(engine / openvino_build.MODEL_FILE),
        precision,
        flags,
        json.dumps(PROMPT),
    ]
    env = dict(os.environ, ONEDNN_MAX_CPU_ISA=isa)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tokens, log_probs = json.loads(done.stdout.splitlines()[-1])
    return tokens, log_probs


@pytest.mark.parametrize(
    ("isa", "flags"),
    [kernels("AVX2", "avx2"), kernels("AVX2_VNNI", "avx2 avx_vnni"), kernels("AVX512_CORE", "avx2 avx512f")],
)
def test_answers_are_right(checkpoint: Path, tmp_path: Path, isa: str, flags: str) -> None:
    expected = NumpyDecoder(Checkpoint(checkpoint)).greedy(PROMPT, 12)
    engines = {
        precision: openvino_build.build(BuildSpec(str(checkpoint), precision, "openvino", tmp_path / precision))
        for precision in ("fp32", "int8")
    }
    tokens, exact = answer(engines["fp32"], "fp32", isa, flags)
    assert tokens == expected
    rounded, log_probs = answer(engines["int8"], "int8", isa, flags)
    assert rounded[0] == expected[0] and abs(log_probs[0] - exact[0]) < 0.1
