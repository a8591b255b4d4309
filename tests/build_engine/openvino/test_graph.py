"""Each architecture's graph, run by the engine, against the numpy forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint, Tensors
from build_engine.openvino import build as openvino_build
from contract.errors import BuildError
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel
from tests.oracle import tiny
from tests.oracle.numpy_decoder import NumpyDecoder

COUNT, BLOCKS = 16, 64


def answers(checkpoint: Tensors, home: Path, prompts: list[list[int]], count: int = COUNT) -> list[list[int]]:
    """Greedy tokens of the FP32 engine, all prompts at once."""
    path = home / openvino_build.MODEL_FILE
    openvino_build.convert(checkpoint, "fp32", path)
    model = PagedModel(path, "fp32")
    model.allocate(BLOCKS)
    engine = Engine(model, BlockPool(BLOCKS), len(prompts), 512)
    for number, prompt in enumerate(prompts):
        engine.submit(EngineRequest(number, prompt, Sampling(count, temperature=0.0, ignore_eos=True)))
    got: list[list[int]] = [[] for _ in prompts]
    while engine.busy:
        for delta in engine.step():
            got[delta.sequence_id] += delta.token_ids
    return got


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_greedy_tokens_equal_the_reference(name: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tiny.write(name, tmp_path / "m"))
    prompts, reference = tiny.prompts(), NumpyDecoder(checkpoint)
    wanted = [reference.greedy(prompt, COUNT) for prompt in prompts]
    assert np.mean([len(set(answer)) for answer in wanted]) > COUNT / 2, "an answer of one word proves little"
    assert answers(checkpoint, tmp_path, prompts) == wanted


def test_a_bias_that_the_config_promises_must_be_there(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tiny.write("llama", tmp_path / "m"))
    checkpoint.config["attention_bias"] = True
    with pytest.raises(BuildError, match=r"no tensor model\.layers\.0\.self_attn\.q_proj\.bias"):
        openvino_build.convert(checkpoint, "fp32", tmp_path / openvino_build.MODEL_FILE)
