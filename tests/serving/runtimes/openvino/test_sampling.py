"""The sampler against plain definitions of what each setting means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.sampling import Sampling
from serving.runtimes.openvino import sampling
from serving.runtimes.openvino.sampling import Sampler

VOCAB = 152064


def row(seed: int, size: int = VOCAB, scale: float = 2.0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def tokens(settings_: Sampling, count: int, size: int = 64, prompt: list[int] | None = None) -> list[int]:
    sampler = Sampler(settings_, prompt or [])
    return [sampler.choose(row(5, size)).token for _ in range(count)]


@pytest.mark.parametrize(("size", "count"), [(VOCAB, 1), (VOCAB, 20), (VOCAB, 290), (VOCAB, 1024), (1000, 7), (5, 9)])
def test_top_is_a_sort(size: int, count: int) -> None:
    values = np.round(row(3, size), 1)  # many ties
    expected = np.lexsort((np.arange(size), -values))[:count]
    found = sampling.top(values, count)
    np.testing.assert_array_equal(values[found], values[expected])
    assert len(set(found.tolist())) == len(found)


@pytest.mark.parametrize(("size", "count"), [(VOCAB, 1), (VOCAB, 100_000), (1000, 999), (5, 5), (5, 9)])
def test_largest_is_top_in_another_order(size: int, count: int) -> None:
    values = np.round(row(3, size), 1)
    expected = np.lexsort((np.arange(size), -values))[:count]
    assert sorted(sampling.largest(values, count)) == sorted(expected)


def test_greedy_is_argmax_and_needs_no_seed() -> None:
    assert tokens(Sampling(8, temperature=0.0, top_k=5, top_p=0.1), 3) == [int(row(5, 64).argmax())] * 3


def test_biases_are_added_and_do_not_touch_log_probs() -> None:
    values = row(5, 64)
    best, other = int(values.argmax()), int(values.argmin())
    settings_ = Sampling(8, temperature=0.0, logit_bias=((best, -100.0), (other, 90.0)), logprobs=1)
    choice = Sampler(settings_, []).choose(values.copy())
    assert choice.token == other
    assert choice.logprob == pytest.approx(float(values[other] - np.log(np.exp(values.astype(np.float64)).sum())), 1e-4)


@pytest.mark.parametrize("more", [{}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.5}, {"repetition_penalty": 1.3}])
def test_only_allowed_ids_are_drawn_by_their_own_weights(more: dict[str, float]) -> None:
    values, allowed = row(5, 1024), (900, 3, 77, 3)
    sampler = Sampler(Sampling(8, seed=3, allowed_token_ids=allowed, logprobs=2, **more), [3, 5])
    drawn = [sampler.choose(values.copy()) for _ in range(400)]
    assert {choice.token for choice in drawn} <= set(allowed)
    assert more or {choice.token for choice in drawn} == set(allowed)
    exact = values - np.log(np.exp(values.astype(np.float64)).sum())
    assert all(choice.logprob == pytest.approx(exact[choice.token], abs=1e-4) for choice in drawn)
    assert drawn[0].top[0][0] == int(values.argmax()), "log probabilities are of the untouched logits"


def test_a_bias_moves_among_the_allowed_ids_only() -> None:
    values = row(5, 64)
    settings_ = Sampling(8, temperature=0.0, allowed_token_ids=(3, 4), logit_bias=((4, 50.0), (9, 100.0)))
    assert Sampler(settings_, []).choose(values.copy()).token == 4
    none = Sampling(8, temperature=0.0, allowed_token_ids=(3,), min_tokens=1, stop_token_ids=(3,))
    with pytest.raises(sampling.NothingLeft, match="allowed_token_ids, bad_words"):
        Sampler(none, []).choose(values.copy())


def test_seeds_decide() -> None:
    same = [tokens(Sampling(8, seed=2**64 - 1), 20) for _ in range(2)]
    assert same[0] == same[1] != tokens(Sampling(8, seed=1), 20)


def reference(values: npt.NDArray[np.float32], s: Sampling) -> npt.NDArray[np.float64]:
    """Probabilities by the textbook: one filter after the other over the whole vocabulary."""
    p = np.exp((values.astype(np.float64) - values.max()) / s.temperature)
    p /= p.sum()
    if s.min_p:
        p[p < s.min_p * p.max()] = 0
    order = np.argsort(-p, kind="stable")
    if s.top_k:
        p[order[s.top_k :]] = 0
    p /= p.sum()
    if s.top_p < 1:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= s.top_p]] = 0
    return p / p.sum()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([50, 1000, 2048, 152064]),
    temperature=st.sampled_from([0.05, 0.2, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 40, 2000, 100_000]),
    top_p=st.sampled_from([1.0, 0.999, 0.8, 0.1]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    scale=st.sampled_from([0.1, 2.0, 6.0]),
)
def test_candidates_follow_the_definition(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float, scale: float
) -> None:
    s = Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    values = row(seed, size, scale)
    expected = reference(values, s)
    ids, weights = sampling.candidates(values, values.max(), s)
    found = np.zeros(size)
    found[slice(None) if ids is None else ids] = weights / weights.sum()
    assert np.abs(found - expected).sum() < 2e-2, "at most a borderline token differs"


def test_drawing_follows_the_weights() -> None:
    sampler = Sampler(Sampling(1, temperature=1.0, seed=3), [])
    values = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    counts = np.bincount([sampler.choose(values.copy()).token for _ in range(20_000)]) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.2], atol=0.015)


@pytest.mark.parametrize("size", [1000, 1024])
def test_drawing_is_one_search_in_the_running_sum(size: int) -> None:
    """By blocks or not; entries of weight zero, whole blocks of them too, are never drawn."""
    weights = np.random.default_rng(4).random(size).astype(np.float32)
    weights[128:400] = weights[-140:] = weights[:3] = 0
    heights = np.cumsum(weights, dtype=np.float64)
    drawn = [sampling.draw(weights, np.random.default_rng(seed)) for seed in range(2000)]
    points = [np.random.default_rng(seed).random() * heights[-1] for seed in range(2000)]
    assert drawn == np.searchsorted(heights, points, side="right").tolist()
    assert weights[drawn].min() > 0


@pytest.mark.parametrize("point", [0.0, np.nextafter(1.0, 0)])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(point: float) -> None:
    class Fixed:
        def random(self) -> float:
            return point

    for size in (1000, 1024):
        weights = np.zeros(size, np.float32)
        weights[[5, 7]] = 0.1, 0.3
        assert sampling.draw(weights, Fixed()) == (5 if point == 0 else 7)


def test_penalties() -> None:
    values = np.array([2.0, -1.0, 0.5, 3.0], np.float32)
    s = Sampling(9, temperature=0.0, repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    sampler = Sampler(s, [0, 1])
    for token in (3, 3):
        sampler.accept(token)
    changed = values.copy()
    sampler._constrain(changed)
    np.testing.assert_allclose(changed, [1.0, -2.0, 0.5, 1.5 - 0.25 - 1.0])


def test_forbidden_tokens() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0], np.float32)
    sampler = Sampler(Sampling(9, temperature=0.0, bad_words=((4,), (2, 3)), min_tokens=1, stop_token_ids=(3,)), [])
    assert sampler.choose(values.copy()).token == 2  # 4 is bad, 3 would stop before min_tokens
    sampler.accept(2)
    assert sampler.choose(values.copy()).token == 2  # 3 may not follow 2
    sampler.accept(1)
    assert sampler.choose(values.copy()).token == 3


def test_log_probabilities_are_of_the_untouched_logits() -> None:
    values = row(9, 1000)
    exact = values - np.log(np.exp(values.astype(np.float64)).sum())
    sampler = Sampler(
        Sampling(9, temperature=0.3, top_k=3, seed=1, logprobs=4, bad_words=((int(values.argmax()),),)), []
    )
    choice = sampler.choose(values.copy())
    assert choice.logprob == pytest.approx(exact[choice.token], abs=1e-4)
    best = np.argsort(-values)[:3]
    assert [i for i, _ in choice.top] == best.tolist() and choice.token != best[0]
    np.testing.assert_allclose([p for _, p in choice.top], exact[best], atol=1e-4)


TINY = float(np.nextafter(np.float32(0), np.float32(1)))


@pytest.mark.parametrize("temperature", [TINY, 1e-39, 1e-38, 1e-20])
@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_p": TINY}, {"min_p": TINY}, {"min_p": 1.0}])
def test_the_smallest_temperatures_are_greedy(temperature: float, more: dict[str, float]) -> None:
    assert set(tokens(Sampling(9, temperature=temperature, seed=1, **more), 20)) == {int(row(5, 64).argmax())}


@pytest.mark.parametrize("penalty", [TINY, 1e-38, 1e-20])
@pytest.mark.parametrize("temperature", [0.0, TINY, 1.0])
def test_the_smallest_repetition_penalties_repeat_what_is_likely(penalty: float, temperature: float) -> None:
    prompt = [3, 7]
    values = np.full(64, 0.5, np.float32)
    values[:4] = -np.inf
    sampler = Sampler(Sampling(9, temperature=temperature, repetition_penalty=penalty, seed=1), prompt)
    assert {sampler.choose(values.copy()).token for _ in range(20)} == {7}


@pytest.mark.parametrize("values", [[np.nan, 1.0], [-np.inf, -np.inf]])
def test_broken_logits_are_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="no token can follow"):
        Sampler(Sampling(1, temperature=0.0), []).choose(np.array(values, np.float32))
