"""Drafts: what is proposed, when it pauses, and that an answer with drafts is the answer without."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from build_engine.synthetic import checkpoint as synthetic
from contract.model_shape import ModelShape
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, SequenceDelta
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.drafts import DRAFTS, FIRST_PAUSE, MATCHED, Drafter
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel

SHAPE = ModelShape("s", 2, 128, 2, 1, 256, 1024, head_dim=64)
COUNT = 40
PROMPT = np.random.default_rng(1).integers(0, SHAPE.vocab, 50).tolist()


def test_what_followed_the_longest_match_follows_again() -> None:
    assert Drafter().propose([1, 2, 3, 9, 8, 7, 5, 3, 6, 6, 6, 1, 2, 3]) == (9, 8, 7)
    assert Drafter().propose([1, 2, 3, 9, 8, 7, 0, 3]) == (9, 8, 7)


def test_the_latest_place_counts_and_a_loop_goes_on() -> None:
    assert Drafter().propose([5, 1, 5, 2, 4, 4, 5]) == (2, 4, 4)
    assert Drafter().propose([7, 8, 1, 2, 1, 2]) == (1, 2, 1)


def test_there_are_always_as_many() -> None:
    drafter, rng = Drafter(), np.random.default_rng(0)
    tokens = [3]
    for _ in range(200):
        assert len(drafter.propose(tokens)) == DRAFTS
        drafter.learn(1)
        tokens += rng.integers(0, 9, rng.integers(1, 4)).tolist()


def test_where_a_single_row_is_cheap_there_are_none_without_a_match() -> None:
    drafter = Drafter(MATCHED)
    assert drafter.propose([1, 2, 3, 9]) == (), "9 is new"
    assert drafter.propose([1, 2, 3, 9, 8, 2, 3]) == (), "what follows one or two tokens says little"
    assert drafter.propose([1, 2, 3, 9, 8, 2, 3, 9]) == (8, 2, 3)
    assert Drafter(MATCHED).propose([4]) == ()


def test_it_pauses_where_nothing_is_accepted_and_tries_again() -> None:
    drafter, drafted = Drafter(), []
    for _ in range(400):
        drafts = drafter.propose([1, 2, 3])
        drafted.append(bool(drafts))
        if drafts:
            drafter.learn(0)
    first = drafted.index(False)
    assert first < 25 and not any(drafted[first : first + FIRST_PAUSE]) and drafted[first + FIRST_PAUSE]
    assert sum(drafted) < 80, "pauses grow"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> PagedModel:
    home = tmp_path_factory.mktemp("engine")
    synthetic.write(SHAPE, home / "m", seed=4)
    out = openvino_build.build(BuildSpec(str(home / "m"), "fp32", "openvino", home / "e"))
    model = PagedModel(out / openvino_build.MODEL_FILE, "fp32")
    model.allocate(64)
    return model


class EvenTokens:
    """A grammar: even and odd tokens in turn, ten of them."""

    seconds = 0.0

    def __init__(self) -> None:
        self.made = 0

    def allowed(self) -> npt.NDArray[np.bool_]:
        return np.arange(SHAPE.vocab) % 2 == self.made % 2

    def accept(self, token: int) -> None:
        self.made += 1

    @property
    def finished(self) -> bool:
        return self.made == 10


def answer(model: PagedModel, pool: BlockPool, sampling: Sampling, guided: bool, drafts: bool) -> list[SequenceDelta]:
    engine = Engine(model, pool, 4, 256, drafts=drafts)
    engine.submit(EngineRequest(1, PROMPT, sampling), EvenTokens() if guided else None)
    deltas: list[SequenceDelta] = []
    while engine.busy:
        deltas += engine.step()
    stats = engine.stats()
    assert stats.kv_blocks_used == 0 and stats.generated_tokens == sum(delta.counted for delta in deltas)
    assert drafts == (stats.drafted_tokens > 0) and (stats.accepted_tokens > 0) == drafts
    decoding = stats.generated_tokens - stats.accepted_tokens
    assert decoding <= stats.steps <= decoding + 1, "a prompt that is scored takes two"
    return deltas


@pytest.mark.parametrize(
    ("settings", "guided"),
    [
        ({"temperature": 0.0}, False),
        ({"temperature": 0.0, "repetition_penalty": 1.05, "frequency_penalty": 0.5, "logprobs": 3}, False),
        ({"temperature": 0.9, "seed": 11, "top_p": 0.95, "presence_penalty": 0.4, "min_tokens": 9}, False),
        ({"temperature": 1.5, "seed": 3, "top_k": 40, "bad_words": ((5, 6),), "logit_bias": ((7, 2.0),)}, False),
        ({"temperature": 0.0, "max_tokens": 11, "prompt_logprobs": 1}, False),
        ({"temperature": 0.7, "seed": 5}, True),
    ],
)
def test_drafts_change_nothing(
    exact: PagedModel, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], guided: bool
) -> None:
    """The drafts are the true answer with an error in every place in turn, so that any number of them is accepted."""
    sampling = Sampling(**({"max_tokens": COUNT} | settings))
    plain = answer(exact, BlockPool(64), sampling, guided, False)
    wanted = [token for delta in plain for token in delta.token_ids]

    def propose(self: Drafter, tokens: list[int]) -> tuple[int, ...]:
        made = len(tokens) - len(PROMPT)
        right = (wanted + [0] * DRAFTS)[made : made + DRAFTS]
        wrong = made % (DRAFTS + 1)
        return tuple((token + 1) % SHAPE.vocab if at == wrong else token for at, token in enumerate(right))

    monkeypatch.setattr(Drafter, "propose", propose)
    pool = BlockPool(64)
    for _ in range(2):  # the second time from the prefix cache
        drafted = answer(exact, pool, sampling, guided, True)
        assert [token for delta in drafted for token in delta.token_ids] == wanted
        assert [delta.counted for delta in drafted] == [delta.counted for delta in plain]
        assert drafted[-1].finish_reason == plain[-1].finish_reason
        both = zip(drafted, plain, strict=True)
        assert all(np.allclose(mine.logprobs, theirs.logprobs, atol=1e-4) for mine, theirs in both)


def test_a_stop_token_among_the_drafts_ends_the_answer(exact: PagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [
        t for d in answer(exact, BlockPool(64), Sampling(COUNT, temperature=0.0), False, False) for t in d.token_ids
    ]
    stop = next(at for at in range(5, COUNT) if whole[at] not in whole[:at])
    monkeypatch.setattr(
        Drafter, "propose", lambda self, tokens: tuple((whole + [0] * 3)[len(tokens) - len(PROMPT) :][:DRAFTS])
    )
    deltas = answer(exact, BlockPool(64), Sampling(COUNT, temperature=0.0, stop_token_ids=(whole[stop],)), False, True)
    assert [t for d in deltas for t in d.token_ids] == whole[:stop] and deltas[-1].finish_reason == "stop"


def test_only_a_lone_stream_gets_drafts(exact: PagedModel) -> None:
    engine = Engine(exact, BlockPool(64), 4, 256, drafts=True)
    for number, count in ((0, 12), (1, 24)):
        engine.submit(EngineRequest(number, PROMPT[number:], Sampling(count, temperature=0.0)))
    while engine.stats().running != 1:
        engine.step()
        assert engine.stats().running == 1 or engine.stats().drafted_tokens == 0
    while engine.busy:
        engine.step()
    assert engine.stats().drafted_tokens > 0


def test_no_drafts_for_a_stream_that_must_not_repeat_itself(exact: PagedModel) -> None:
    engine = Engine(exact, BlockPool(64), 4, 256, drafts=True)
    engine.submit(EngineRequest(0, PROMPT, Sampling(12, temperature=0.0, repetition_penalty=1.1)))
    while engine.busy:
        engine.step()
    assert engine.stats().generated_tokens == 12 and engine.stats().drafted_tokens == 0


def test_drafts_of_a_match_need_no_mild_penalty(exact: PagedModel) -> None:
    engine = Engine(exact, BlockPool(64), 4, 256, drafts=True, draft_terms=MATCHED)
    engine.submit(
        EngineRequest(
            0, PROMPT + PROMPT[:4], Sampling(2, temperature=0.0, repetition_penalty=1.1, logit_bias=((PROMPT[4], 1e4),))
        )
    )
    while engine.busy:
        engine.step()
    assert engine.stats().drafted_tokens > 0


def test_no_drafts_where_blocks_run_out(exact: PagedModel) -> None:
    """Two blocks hold the prompt and the answer, but not drafts behind the last tokens."""
    engine = Engine(exact, BlockPool(2), 1, 64, drafts=True)
    engine.submit(EngineRequest(0, PROMPT, Sampling(100, temperature=0.0)))
    made = 0
    while engine.busy:
        made += sum(delta.counted for delta in engine.step())
    assert made == 64 - len(PROMPT) and engine.stats().preemptions == 0
