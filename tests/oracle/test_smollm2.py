"""SmolLM2-135M-Instruct against ``transformers`` on the same GGUF file: weights, greedy tokens, log probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from build_engine import smollm2
from build_engine.gguf.source import GgufSource
from build_engine.openvino import build as openvino_build
from contract.paths import ROOT
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, SequenceDelta
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel
from tests.oracle import expected

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(1800)]
TOKENS, TOP, NEAR = 64, 5, 1e-4
QUESTIONS = (
    "What is the capital of France?", "Write a short story about a fox and a river.", "Why is the sky blue?",
    "Explain photosynthesis to a child.", "List three fruits.", "Translate 'good morning' into French.",
    "What is 12 + 7?", "Give me a recipe for pancakes.", "Who wrote Hamlet?", "Describe the sea in winter.",
)  # fmt: skip
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def prompts(engine_dir: Path) -> list[list[int]]:
    """Ten chats, and ten stretches of English of 50 to 1,500 tokens."""
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer.json"))
    chats = [
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for question in QUESTIONS
    ]
    licence = tokenizer.encode((ROOT / "LICENSE").read_text(), add_special_tokens=False).ids
    rng = np.random.default_rng(3)
    stretches = [licence[start : start + rng.integers(50, 400)] for start in range(0, 900, 100)] + [licence[:1500]]
    return [tokenizer.encode(chat, add_special_tokens=False).ids for chat in chats] + stretches


@pytest.fixture(scope="module")
def precise(reference: Any) -> Any:
    """In float64: transformers' own float32 is up to 4e-5 away from it."""
    return deepcopy(reference).double()


@pytest.fixture(scope="module")
def answers(reference: Any, prompts: list[list[int]]) -> list[list[int]]:
    return [expected.greedy(reference, prompt, TOKENS) for prompt in prompts]


def test_all_weights_are_equal(reference: Any) -> None:
    source = GgufSource(smollm2.cached())
    tensors, state = source.tensors(source.config), reference.state_dict()
    assert len(tensors.names) == 272
    for name in tensors.names:
        np.testing.assert_array_equal(tensors.float32(name), state[name].numpy(), err_msg=name)


@pytest.mark.parametrize(("blocks", "preempted"), [(800, False), (52, True)], ids=["together", "preempted"])
def test_greedy_tokens_and_log_probabilities(
    precise: Any, engine_dir: Path, prompts: list[list[int]], answers: list[list[int]], blocks: int, preempted: bool
) -> None:
    model = PagedModel(engine_dir / openvino_build.MODEL_FILE, "fp32")
    model.allocate(blocks)
    engine = Engine(model, BlockPool(blocks), 16, 8192)
    got = ask(engine, prompts)
    assert bool(engine.stats().preemptions) == preempted
    compare(precise, prompts, answers, got)


def test_drafts_change_neither_tokens_nor_log_probabilities(
    precise: Any, engine_dir: Path, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    model = PagedModel(engine_dir / openvino_build.MODEL_FILE, "fp32")
    model.allocate(200)
    engine = Engine(model, BlockPool(200), 1, 8192, drafts=True)
    got = [ask(engine, [prompt])[0] for prompt in prompts]  # only a stream that is alone gets drafts
    stats = engine.stats()
    assert stats.accepted_tokens > len(prompts) and stats.drafted_tokens > stats.accepted_tokens
    compare(precise, prompts, answers, got)


def ask(engine: Engine, prompts: Sequence[list[int]]) -> list[list[SequenceDelta]]:
    sampling = Sampling(TOKENS, temperature=0.0, ignore_eos=True, logprobs=1 + TOP)
    for number, prompt in enumerate(prompts):
        engine.submit(EngineRequest(number, prompt, sampling))
    got: list[list[SequenceDelta]] = [[] for _ in prompts]
    while engine.busy:
        for delta in engine.step():
            got[delta.sequence_id].append(delta)
    return got


def compare(
    precise: Any, prompts: list[list[int]], answers: list[list[int]], got: Sequence[Sequence[SequenceDelta]]
) -> None:
    errors: list[float] = []
    for prompt, answer, deltas in zip(prompts, answers, got, strict=True):
        assert [token for delta in deltas for token in delta.token_ids] == answer
        errors += differences(precise, prompt, answer, [top for delta in deltas for top in delta.top_logprobs])
    within = float(np.quantile(errors, 0.99))
    print(f"\n{len(errors)} log probabilities: 99 % within {within:.1e}, all within {max(errors):.1e}")
    assert within < NEAR and max(errors) < 2 * NEAR  # one prompt of the twenty reaches 1.2e-4, the others 6.3e-5


def test_log_probabilities_of_prompts(precise: Any, engine_dir: Path, prompts: list[list[int]]) -> None:
    """What lm-evaluation-harness sums up for its multiple choices; cut into steps and beside each other."""
    import torch

    model = PagedModel(engine_dir / openvino_build.MODEL_FILE, "fp32")
    model.allocate(800)
    engine = Engine(model, BlockPool(800), 16, 8192)
    for number, prompt in enumerate(prompts):
        engine.submit(EngineRequest(number, prompt, Sampling(1, temperature=0.0, prompt_logprobs=1)))
    found: dict[int, list[float]] = {}
    while engine.busy:
        for delta in engine.step():
            found.setdefault(delta.sequence_id, []).extend(delta.prompt.log_probs if delta.prompt else ())
    worst = 0.0
    for number, prompt in enumerate(prompts):
        with torch.inference_mode():
            logits = precise(torch.tensor([prompt])).logits[0, :-1]
        wanted = torch.log_softmax(logits, -1).gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].numpy()
        assert len(found[number]) == len(wanted)
        worst = max(worst, float(np.abs(np.array(found[number]) - wanted).max()))
    print(f"\n{sum(map(len, prompts))} tokens, all within {worst:.1e}")
    assert worst < NEAR


def differences(precise: Any, prompt: list[int], answer: list[int], found: list[Any]) -> list[float]:
    """Of the engine's most likely tokens' log probabilities, at every position of ``answer``."""
    import torch

    with torch.inference_mode():
        logits = precise(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    wanted = torch.log_softmax(logits, -1).numpy()
    assert all(len(tops) >= TOP for tops in found)
    return [abs(float(row[token]) - value) for row, tops in zip(wanted, found, strict=True) for token, value in tops]
