"""Temperature, penalties, top_k, top_p and min_p on a real prompt's logits: the distribution is ``transformers``'."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from contract.sampling import Sampling
from serving.runtimes.openvino.sampling import Sampler

pytestmark = pytest.mark.oracle
DRAWS = 3000
PROMPT = (
    "<|im_start|>user\nName a colour, and then a fruit of another colour.<|im_end|>\n<|im_start|>assistant\n"
    "A colour is red, and a fruit of another colour is"
)
SETTINGS: list[dict[str, float]] = [
    {"temperature": 1.0}, {"temperature": 0.7}, {"temperature": 1.5}, {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "min_p": 0.05}, {"temperature": 1.5, "min_p": 0.1}, {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.2, "top_k": 7}, {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1},
    {"temperature": 1.1, "top_k": 20, "top_p": 0.7},
]  # fmt: skip


def distribution(logits: Any, prompt: list[int], settings: dict[str, float]) -> np.ndarray:
    """[vocab], as ``generate(do_sample=True, **settings)`` has it."""
    import torch
    from transformers import generation as g

    made = {
        "repetition_penalty": g.RepetitionPenaltyLogitsProcessor, "temperature": g.TemperatureLogitsWarper,
        "top_k": g.TopKLogitsWarper, "top_p": g.TopPLogitsWarper, "min_p": g.MinPLogitsWarper,
    }  # fmt: skip
    ids, scores = torch.tensor([prompt]), logits[None].clone()
    for name, kind in made.items():  # generate's order
        if name in settings:
            scores = kind(settings[name])(ids, scores)
    return np.asarray(torch.softmax(scores.double(), -1)[0])


@pytest.fixture(scope="module")
def prompt(engine_dir: Path) -> list[int]:
    return list(Tokenizer.from_file(str(engine_dir / "tokenizer.json")).encode(PROMPT, add_special_tokens=False).ids)


@pytest.fixture(scope="module")
def logits(reference: Any, prompt: list[int]) -> Any:
    import torch

    with torch.inference_mode():
        return reference(torch.tensor([prompt])).logits[0, -1].float()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_follow_the_distribution_of_transformers(
    logits: Any, prompt: list[int], settings: dict[str, Any]
) -> None:
    wanted = distribution(logits, prompt, settings)
    row = logits.numpy()
    sampler = Sampler(Sampling(1, seed=11, **settings), prompt)
    drawn = Counter(sampler.choose(row.copy()).token for _ in range(DRAWS))
    assert all(wanted[token] > 0 for token in drawn), "a token that transformers cuts off"
    common = np.flatnonzero(wanted * DRAWS >= 10)
    found = np.array([drawn[token] for token in common] + [DRAWS - sum(drawn[token] for token in common)])
    mean = DRAWS * np.append(wanted[common], max(1 - wanted[common].sum(), 0.0))
    counted = mean > 1
    statistic, freedom = float(((found - mean)[counted] ** 2 / mean[counted]).sum()), int(counted.sum()) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * max(freedom, 1)) + 4, (
        statistic,
        freedom,
    )  # 1 in some 10,000 by chance
    assert freedom > 0 or wanted.max() > 0.99


def test_presence_and_frequency_penalties_change_the_logits_as_openai_says(logits: Any, prompt: list[int]) -> None:
    """transformers has neither: https://platform.openai.com/docs/api-reference/chat/create, frequency_penalty."""
    row = logits.numpy()
    first = int(row.argmax())
    sampler = Sampler(Sampling(1, temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25), prompt)
    for _ in range(3):
        sampler.accept(first)
    changed = row.copy()
    sampler.choose(changed)
    assert changed[first] == pytest.approx(row[first] - 0.5 - 3 * 0.25, abs=1e-4)
    assert np.array_equal(np.delete(changed, first), np.delete(row, first))
