"""Token by token against a numpy forward pass: batches, chunks, prefix cache and preemption change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from build_engine.checkpoint import Checkpoint
from build_engine.plan.profiles import with_yarn
from contract.errors import InvalidRequest, to_wire
from contract.prompt_part import PromptPart, join
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel
from tests.oracle.numpy_decoder import NumpyDecoder
from tests.serving.runtimes.openvino.small_engine import BLOCKS, COUNT, SHAPE, finish, greedy, ids, load


@pytest.fixture(scope="module")
def expected(checkpoint: Path, prompts: list[list[int]]) -> list[list[int]]:
    reference = NumpyDecoder(Checkpoint(checkpoint))
    answers = [reference.greedy(prompt, COUNT) for prompt in prompts]
    assert all(len(set(answer)) > COUNT / 2 for answer in answers), "an answer of one word proves little"
    return answers


@pytest.mark.parametrize(
    ("blocks", "streams", "step"),
    [(BLOCKS, 1, 128), (BLOCKS, 8, 128), (BLOCKS, 8, 33), (8, 8, 128)],
    ids=["alone", "together", "chunked", "preempted"],
)
def test_greedy_tokens_equal_the_reference(
    exact: PagedModel, prompts: list[list[int]], expected: list[list[int]], blocks: int, streams: int, step: int
) -> None:
    engine = Engine(exact, BlockPool(blocks), streams, 256, step_tokens=step)
    for _ in range(2):  # the second time from the prefix cache
        for number, prompt in enumerate(prompts):
            engine.submit(greedy(number, prompt))
        got = finish(engine)
        assert [ids(got[number]) for number in range(len(prompts))] == expected
        assert {deltas[-1].finish_reason for deltas in got.values()} == {"length"}
    stats = engine.stats()
    assert stats.cached_tokens > 0 and stats.kv_blocks_used == 0
    assert stats.generated_tokens == 2 * COUNT * len(prompts)
    assert stats.prompt_tokens == 2 * sum(map(len, prompts))
    assert engine._scheduler.preemptions > 0 or blocks == BLOCKS


@pytest.mark.parametrize(("blocks", "streams", "step"), [(BLOCKS, 8, 128), (BLOCKS, 8, 33), (8, 8, 48)])
def test_scores_of_prompts_equal_the_reference(
    exact: PagedModel, checkpoint: Path, prompts: list[list[int]], blocks: int, streams: int, step: int
) -> None:
    """However prompts are cut, preempted, or known to the prefix cache."""
    engine, reference = (
        Engine(exact, BlockPool(blocks), streams, 256, step_tokens=step),
        NumpyDecoder(Checkpoint(checkpoint)),
    )
    prompts = [*prompts, [7]]
    for number, prompt in enumerate(prompts):  # fills the prefix cache, and decodes beside those that are scored
        engine.submit(greedy(number, prompt))
        engine.submit(greedy(100 + number, prompt, prompt_logprobs=4, logprobs=1))
    got = finish(engine)
    for number, prompt in enumerate(prompts):
        found = join([delta.prompt for delta in got[100 + number] if delta.prompt] or [PromptPart()])
        logits = reference.logits(prompt)[:-1].astype(np.float64)
        wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        own = wanted[np.arange(len(prompt) - 1), prompt[1:]]
        np.testing.assert_allclose(found.log_probs, own, atol=1e-4)
        assert list(found.ranks) == [1 + int((row > value).sum()) for row, value in zip(wanted, own, strict=True)]
        for tops, row in zip(orjson.loads(found.tops or b"[]"), wanted, strict=True):
            assert [token for token, _ in tops] == np.argsort(-row, kind="stable")[:3].tolist()
        assert ids(got[100 + number]) == ids(got[number]) and not any(delta.prompt for delta in got[number])
        assert got[100 + number][-1].cached_tokens == 0, "a cached token has no logits"
    assert engine._scheduler.preemptions > 0 or blocks == BLOCKS


def test_yarn_equals_the_reference(checkpoint: Path, tmp_path: Path, prompts: list[list[int]]) -> None:
    scaled = load(checkpoint, tmp_path, "fp32", context=65536)
    reference = Checkpoint(checkpoint)
    reference.config = with_yarn(reference.config, 65536)
    engine = Engine(scaled, BlockPool(BLOCKS), 8, 256)
    for number, prompt in enumerate(prompts):
        engine.submit(greedy(number, prompt))
    got = finish(engine)
    answers = [ids(got[number]) for number in range(len(prompts))]
    model = NumpyDecoder(reference)
    assert answers[:2] == [model.greedy(prompt, COUNT) for prompt in prompts[:2]]


def test_int8_stays_close(checkpoint: Path, tmp_path: Path, prompts: list[list[int]]) -> None:
    """Mean KL divergence of the next token's distribution over all prompts."""
    model, reference = load(checkpoint, tmp_path, "int8"), NumpyDecoder(Checkpoint(checkpoint))
    engine = Engine(model, BlockPool(BLOCKS), 8, 256)
    for number, prompt in enumerate(prompts):
        engine.submit(EngineRequest(number, prompt, Sampling(1, temperature=0.0, logprobs=SHAPE.vocab + 1)))
    divergence = []
    for number, deltas in finish(engine).items():
        logits = reference.logits(prompts[number])[-1].astype(np.float64)
        wanted = logits - np.log(np.exp(logits).sum())
        found = np.empty(SHAPE.vocab)
        for token, logprob in deltas[0].top_logprobs[0]:
            found[token] = logprob
        divergence.append((np.exp(wanted) * (wanted - found)).sum())
    assert len(divergence) == len(prompts) and np.mean(divergence) <= 0.003


def test_stop_tokens_are_counted_and_not_shown(
    exact: PagedModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    stop = expected[0][3]
    engine = Engine(exact, BlockPool(BLOCKS), 8, 256)
    engine.submit(greedy(1, prompts[0], stop_token_ids=(stop,), logprobs=2))
    deltas = finish(engine)[1]
    end = deltas[-1].end
    assert end and end.token == stop and end.top == ((stop, end.logprob),)
    assert not any(delta.end for delta in deltas[:-1])
    wanted = expected[0][: expected[0].index(stop)]
    assert ids(deltas) == wanted and sum(delta.counted for delta in deltas) == len(wanted) + 1
    assert deltas[-1].finish_reason == "stop"


def test_an_impossible_request_ends_alone(
    exact: PagedModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    engine = Engine(exact, BlockPool(BLOCKS), 8, 256)
    everything = tuple((token,) for token in range(SHAPE.vocab))
    engine.submit(greedy(1, prompts[1], bad_words=everything))
    engine.submit(greedy(2, prompts[2], bad_words=((10**9,),)))
    engine.submit(greedy(0, prompts[0]))
    got = finish(engine)
    assert [got[i][-1].finish_reason for i in (1, 2)] == ["error", "error"] and got[1][-1].error == to_wire(
        InvalidRequest(
            "bad_words",
            "no token can follow: allowed_token_ids, bad_words, min_tokens and the guide together leave none; "
            "leave one of them out",
        )
    )
    assert ids(got[0]) == expected[0] and engine.stats().kv_blocks_used == 0


def test_the_context_ends_an_answer(exact: PagedModel) -> None:
    engine = Engine(exact, BlockPool(BLOCKS), 8, max_seq_len=40)
    engine.submit(EngineRequest(1, list(range(35)), Sampling(1000, temperature=0.0)))
    deltas = finish(engine)[1]
    assert len(ids(deltas)) == 5 and deltas[-1].finish_reason == "length"


def test_abort_frees_blocks_at_once(exact: PagedModel, prompts: list[list[int]], expected: list[list[int]]) -> None:
    engine = Engine(exact, BlockPool(BLOCKS), 2, 256)
    for number in range(3):
        engine.submit(greedy(number, prompts[number]))
    engine.step()
    for number in (0, 2):  # one that runs, one that waits
        delta = engine.abort(number)
        assert delta is not None and delta.finish_reason == "cancelled"
    assert engine.abort(0) is None and engine.abort(77) is None
    got = finish(engine)
    assert set(got) == {1} and engine.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.9, "seed": 11, "top_p": 0.95, "presence_penalty": 0.4, "min_tokens": 9, "logprobs": 1},
        {"temperature": 1.5, "seed": 3, "top_k": 40, "bad_words": ((5, 6),)},
    ],
)
def test_a_resumed_answer_is_the_undisturbed_one(
    exact: PagedModel, prompts: list[list[int]], settings: dict[str, object]
) -> None:
    sampling = Sampling(COUNT, **settings)
    engine = Engine(exact, BlockPool(BLOCKS), 8, 256)
    for number, prompt in enumerate(prompts):
        engine.submit(EngineRequest(number, prompt, sampling))
    whole = {number: ids(deltas) for number, deltas in finish(engine).items()}
    engine = Engine(exact, BlockPool(BLOCKS), 8, 256)
    for number, prompt in enumerate(prompts):
        cut = 1 + 3 * number
        engine.submit(EngineRequest(number, prompt, sampling, resume_ids=whole[number][:cut]))
    for number, deltas in finish(engine).items():
        cut = 1 + 3 * number
        assert ids(deltas) == whole[number][cut:]
        assert deltas[-1].finish_reason == "length" and deltas[0].cached_tokens <= len(prompts[number])
    assert engine.stats().prompt_tokens == sum(map(len, prompts))
