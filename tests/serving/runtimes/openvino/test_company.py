"""An answer does not depend on who is computed beside it, nor on how its prompt was divided or cached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel
from tests.serving.runtimes.openvino.small_engine import BLOCKS, COUNT, finish, greedy, ids, load


def log_probs(
    model: PagedModel, prompts: list[list[int]], pool: BlockPool, streams: int = 8, step: int = 128
) -> npt.NDArray[np.float64]:
    """Of each prompt's greedy answer, token by token."""
    engine = Engine(model, pool, streams, 256, step_tokens=step)
    for number, prompt in enumerate(prompts):
        engine.submit(greedy(number, prompt, logprobs=1))
    got = finish(engine)
    return np.array([[x for delta in got[n] for x in delta.logprobs] for n in range(len(prompts))])


def test_sampled_answers_depend_on_the_seed_not_on_company(exact: PagedModel, prompts: list[list[int]]) -> None:
    def answer(company: bool, seed: int) -> list[int]:
        engine = Engine(exact, BlockPool(BLOCKS), 8, 256)
        engine.submit(EngineRequest(99, prompts[0], Sampling(COUNT, temperature=0.9, top_k=50, seed=seed)))
        for number, prompt in enumerate(prompts if company else []):
            engine.submit(greedy(number, prompt))
        return ids(finish(engine)[99])

    assert answer(False, 5) == answer(True, 5) != answer(False, 6)


def test_rounded_answers_depend_neither_on_company_nor_on_the_prefix_cache(
    checkpoint: Path, tmp_path: Path, prompts: list[list[int]]
) -> None:
    """Bit for bit: activations of 8 bits make tenths of a nat of a last bit. With one thread PagedAttention has nothing
    to divide."""
    out = openvino_build.build(BuildSpec(str(checkpoint), "int8", "openvino", tmp_path / "int8"))
    model = PagedModel(out / openvino_build.MODEL_FILE, "int8", threads=2)
    model.allocate(BLOCKS)
    long = (prompts[0] * 4)[:97]
    asked = [*prompts, *(long[:tokens] for tokens in (1, 2, 32, 33, 34, 65, 97))]

    alone = np.concatenate([log_probs(model, [prompt], BlockPool(BLOCKS)) for prompt in asked])
    for step in (128, 33):
        assert np.array_equal(log_probs(model, asked, BlockPool(BLOCKS), step=step), alone), step
    pool = BlockPool(BLOCKS)
    log_probs(model, [long], pool)
    assert np.array_equal(np.concatenate([log_probs(model, [prompt], pool) for prompt in asked]), alone), (
        "from the cache"
    )


def test_exact_arithmetic_on_int8_weights_does_not_depend_on_company(
    checkpoint: Path, tmp_path: Path, prompts: list[list[int]]
) -> None:
    """What EXACT=1 is for: alone, together, in chunks, preempted, from the prefix cache."""
    rounded = load(checkpoint, tmp_path, "int8")
    exact = PagedModel(tmp_path / "int8" / openvino_build.MODEL_FILE, "fp32")
    exact.allocate(BLOCKS)

    def spread(model: PagedModel) -> float:
        alone = log_probs(model, prompts, BlockPool(BLOCKS), streams=1)
        ways = ((BLOCKS, 128), (BLOCKS, 33), (8, 48))
        return max(
            np.abs(log_probs(model, prompts, BlockPool(blocks), step=step) - alone).max() for blocks, step in ways
        )

    assert spread(exact) < 1e-4 < spread(rounded)
