"""The CPU engine against ``transformers`` in float32 (``make test-oracle``): exact tokens, bounded INT8 error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from build_engine.synthetic import checkpoint as synthetic
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine, Model
from serving.runtimes.openvino.model import PagedModel
from serving.runtimes.openvino.scheduler import ScheduledChunk
from tests.oracle import expected

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(1800)]
BLOCKS = 400
MAX_KL = 0.003
MIN_AGREEMENT = 0.99  # of top-1, where the reference's margin is above its median
# prompts and tokens: transformers makes 5 tokens/s at the larger shape, on a machine with nothing else to do
SIZES = {"synthetic": (expected.PROMPTS, expected.TOKENS), "synthetic-0.5b": (8, 32)}


@pytest.fixture(scope="module", params=SIZES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(shape: str) -> Any:
    return expected.load(synthetic.cached(shape))


@pytest.fixture(scope="module")
def prompts(shape: str) -> list[list[int]]:
    return expected.prompts(synthetic.cached(shape))[: SIZES[shape][0]]


@pytest.fixture(scope="module")
def answers(shape: str, reference: Any, prompts: list[list[int]]) -> list[list[int]]:
    return [expected.greedy(reference, prompt, SIZES[shape][1]) for prompt in prompts]


def load(shape: str, precision: str, home: Path) -> PagedModel:
    out = openvino_build.build(BuildSpec(shape, precision, "openvino", home / precision))
    model = PagedModel(out / openvino_build.MODEL_FILE, precision)
    model.allocate(BLOCKS)
    return model


def run(model: Model, streams: int, requests: list[EngineRequest]) -> dict[int, list[Any]]:
    engine = Engine(model, BlockPool(BLOCKS), streams, 4096)
    for request in requests:
        engine.submit(request)
    got: dict[int, list[Any]] = {request.sequence_id: [] for request in requests}
    while engine.busy:
        for delta in engine.step():
            got[delta.sequence_id].append(delta)
    return got


def test_fp32_greedy_is_exact(shape: str, prompts: list[list[int]], answers: list[list[int]], tmp_path: Path) -> None:
    model = load(shape, "fp32", tmp_path)
    requests = [
        EngineRequest(i, prompt, Sampling(SIZES[shape][1], temperature=0.0, ignore_eos=True))
        for i, prompt in enumerate(prompts)
    ]
    assert np.mean([len(set(answer)) for answer in answers]) > SIZES[shape][1] / 4, "answers of few words prove little"
    for streams in (1, 16):
        got = run(model, streams, requests)
        assert [[t for d in got[i] for t in d.token_ids] for i in range(len(prompts))] == answers


def test_int8_teacher_forced(
    shape: str, reference: Any, prompts: list[list[int]], answers: list[list[int]], tmp_path: Path
) -> None:
    """Distributions after every token of the reference's answers, INT8 against float32."""
    import torch

    model = load(shape, "int8", tmp_path)
    divergences, margins, same = [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        wanted = torch.log_softmax(logits, -1).numpy()
        found = teacher_forced(model, prompt, answer)
        divergences.append((np.exp(wanted) * (wanted - found)).sum(-1))
        two = np.sort(wanted, -1)[:, -2:]
        margins.append(two[:, 1] - two[:, 0])
        same.append(wanted.argmax(-1) == found.argmax(-1))
    margin, agree = np.concatenate(margins), np.concatenate(same)
    clear = agree[margin > np.median(margin)].mean()
    mean = np.concatenate(divergences).mean()
    print(f"\n{shape}: mean KL {mean:.5f}, top-1 {agree.mean():.3f}, top-1 above the median margin {clear:.3f}")
    assert mean <= MAX_KL and clear >= MIN_AGREEMENT


class Recorder:
    """Passes steps on and keeps each sequence's logits."""

    def __init__(self, model: PagedModel) -> None:
        self.model = model
        self.rows: dict[int, np.ndarray[Any, Any]] = {}

    def forward(self, chunks: Sequence[ScheduledChunk]) -> np.ndarray[Any, Any]:
        logits = self.model.forward(chunks)
        sampled = (chunk.sequence.request.sequence_id for chunk in chunks if chunk.sample)
        self.rows.update((number, row.astype(np.float64)) for number, row in zip(sampled, logits, strict=True))
        return logits


def teacher_forced(model: PagedModel, prompt: list[int], answer: list[int]) -> np.ndarray[Any, Any]:
    """Log probabilities [len(answer), vocab]: one request per position; the prefix cache does the repeated work."""
    recorder = Recorder(model)
    greedy = Sampling(1, temperature=0.0)
    run(recorder, 16, [EngineRequest(i, prompt + answer[:i], greedy) for i in range(len(answer))])
    rows = np.stack([recorder.rows[i] for i in range(len(answer))])
    rows -= rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))
