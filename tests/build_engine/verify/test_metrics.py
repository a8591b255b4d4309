"""The accuracy gate's arithmetic: divergence, drift, loops, limits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engine.verify.metrics import compare, failures, kl, repeats, rise
from tests.build_engine.verify.samples import GOOD, LIMITS, VOCAB, top


def test_a_model_agrees_with_itself():
    positions = [top(np.random.default_rng(seed).normal(0, 3, VOCAB)) for seed in range(30)]
    found = compare(positions, positions, [p[0][0] for p in positions], [([1, 2], [1, 2])])
    assert (found.greedy_agreement, found.confident_agreement, found.mean_kl, found.repetition_rise) == (1, 1, 0, 0)
    assert found.perplexity_drift == 0


@given(st.integers(0, 10_000), st.floats(0.01, 3))
def test_kl_is_a_lower_bound_of_the_full_kl_and_never_negative(seed, noise):
    generator = np.random.default_rng(seed)
    a = generator.normal(0, 2, VOCAB)
    b = a + generator.normal(0, noise, VOCAB)
    p, q = (x - np.logaddexp.reduce(x) for x in (a, b))
    full = float(np.sum(np.exp(p) * (p - q)))
    assert 0 <= kl(top(a), top(b)) <= full + 1e-6
    assert kl(top(a, VOCAB), top(b, VOCAB)) == pytest.approx(full, abs=1e-6)


def test_perplexity_drift_is_relative():
    reference = [[(1, math.log(0.5)), (2, math.log(0.5))]] * 4
    candidate = [[(2, math.log(0.6)), (1, math.log(0.4))]] * 4
    found = compare(reference, candidate, [1] * 4, [])
    assert found.perplexity_drift == pytest.approx(0.25)
    assert found.greedy_agreement == 0 and found.confident_agreement == 1, "no position of the reference is sure"


def test_without_probabilities_only_agreement_is_judged():
    nan = float("nan")
    found = compare([[(1, nan)], [(2, nan)]], [[(1, nan)], [(3, nan)]], [1, 2], [])
    assert found.greedy_agreement == 0.5 and found.mean_kl is None and found.perplexity_drift is None


@pytest.mark.parametrize("entries", [1, 2, 5, 20])
def test_a_damaged_model_fails_however_many_entries_the_runtime_gives(entries):
    """With one entry KL was 0.000 and the drift negative, and such a model passed."""
    generator = np.random.default_rng(3)
    reference = [generator.normal(0, 4, VOCAB) for _ in range(200)]
    damaged = [logits + generator.normal(0, 0.4, VOCAB) for logits in reference]
    for logits, bad in zip(reference, damaged, strict=True):
        bad[np.argmax(logits)] = bad.max() + 4  # agrees everywhere, and is far too sure of itself
    positions = [[top(logits, entries) for logits in side] for side in (reference, damaged)]
    found = compare(*positions, [p[0][0] for p in positions[0]], [])
    assert found.greedy_agreement == 1
    assert failures(found, LIMITS), found


def test_positions_must_match():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare([[(1, 0.0)]], [], [], [])


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([0] * 20, True),  # "!!!!": what FP16 overflow looks like
        ([5, *[0] * 15], False),
        (list(range(40)) + [7, 8, 9] * 16, True),
        ([1, 2] * 24, True),
        ([1, 2] * 12, False),
        (list(range(96)), False),
        ([7, 8, 9] * 16 + [1, 2, 3, 4], False),
    ],
)
def test_loops_are_found(tokens, loop):
    assert repeats(tokens) is loop


def test_loops_that_appear_and_loops_that_go_are_both_counted():
    looping, text = [0] * 30, list(range(30))
    positions = [[(1, -0.1), (2, -3.0)]]
    answers = [(text, looping), (looping, looping), (looping, text), (text, text), (text, looping)]
    found = compare(positions, positions, [1], answers)
    assert (found.new_repetitions, found.gone_repetitions) == (2, 1) and found.repetition_rise < 0


@pytest.mark.parametrize(
    ("new", "gone", "more"),
    [(0, 0, False), (1, 0, False), (4, 0, False), (5, 0, True), (6, 6, False), (7, 1, True), (9, 3, False),
     (10, 2, True), (0, 20, False), (44, 0, True)],
)  # fmt: skip
def test_more_loops_are_a_rise_exactly_when_a_sign_test_rejects_chance(new, gone, more):
    changed = new + gone
    by_chance = sum(math.comb(changed, k) for k in range(new, changed + 1)) / 2**changed
    assert (rise(new, gone, 44) > 0) is more is (by_chance < 0.05)
    assert rise(new, gone, 44) <= (new - gone) / 44


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"greedy_agreement": 0.89}, "greedy_agreement"),
        ({"confident_agreement": 0.9}, "confident_agreement"),
        ({"mean_kl": 0.06}, "mean_kl"),
        ({"mean_kl": None}, "mean_kl"),
        ({"perplexity_drift": 0.2}, "perplexity_drift"),
        ({"repetition_rise": 0.01}, "repetition_rise"),
    ],
)
def test_each_limit_can_fail_the_gate(change, name):
    assert failures(GOOD, LIMITS) == []
    [text] = failures(dataclasses.replace(GOOD, **change), LIMITS)
    assert text.startswith(name)
