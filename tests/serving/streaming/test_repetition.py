"""Answers that repeat themselves: vLLM's rule, on any engine, cut at the same token however tokens arrive."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.runtimes.base import EndToken, SequenceDelta
from serving.streaming.repetition import RepetitionDetector
from tests.serving.rig import AT_ONCE, STREAM, Rig
from tests.waiting import until


def first_repetition(tokens: Sequence[int], most: int, least: int, count: int, min_tokens: int) -> int | None:
    """How many tokens there are when vLLM's ``check_stop`` first says FINISHED_REPETITION; written as its two loops."""
    for made in range(max(1, min_tokens), len(tokens) + 1):
        for size in range(least, most + 1):
            if size * count > made:
                break
            tail = list(tokens[made - size * count : made])
            if tail == tail[:size] * count:
                return made
    return None


SETTINGS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 5), st.integers(0, 12))


@given(st.lists(st.integers(0, 2), max_size=60), SETTINGS, st.integers(1, 7))
def test_the_rule_is_vllms_however_the_tokens_arrive(
    tokens: list[int], settings: tuple[int, int, int, int], pieces: int
) -> None:
    low, high, count, min_tokens = settings
    most, least = max(low, high), min(low, high)
    detector = RepetitionDetector(most, least, count, min_tokens=min_tokens)
    kept: list[int] = []
    for at in range(0, len(tokens), pieces):
        piece = tokens[at : at + pieces]
        delta = detector.cut(SequenceDelta(1, piece, len(piece), None, [0.5] * len(piece), [((1, 0.5),)] * len(piece)))
        assert delta.counted == len(delta.token_ids) == len(delta.logprobs) == len(delta.top_logprobs)
        kept += delta.token_ids
    expected = first_repetition(tokens, most, least, count, min_tokens)
    assert detector.found is (expected is not None) and kept == tokens[:expected]


def test_long_texts_without_a_repetition_pass_and_the_window_moves_on() -> None:
    rng = random.Random(1)
    detector = RepetitionDetector(64, 4, 3)
    for _ in range(2000):
        assert detector.cut(SequenceDelta(1, [rng.randrange(5)], 1)).counted == 1
    loop = [rng.randrange(1000) for _ in range(64)]
    made = sum(detector.cut(SequenceDelta(1, [token], 1)).counted for token in loop * 5)
    assert detector.found and 3 * 64 - 5 <= made <= 3 * 64  # the text before may end as the pattern does


@pytest.mark.parametrize(
    ("tokens", "counted", "finish", "kept", "says"),
    [
        ([7, 7, 7, 7], 4, "length", [7, 7, 7], "repetition"),  # ended after the repetition
        ([7, 7, 7], 3, "length", [7, 7, 7], "length"),  # ended with it: as vLLM, which looks at its ends first
        ([7, 7, 7], 4, "stop", [7, 7, 7], "repetition"),  # an end token came one later
        ([7, 7], 3, "stop", [7, 7], "stop"),
    ],
)
def test_why_an_answer_ended(tokens: list[int], counted: int, finish: str, kept: list[int], says: str) -> None:
    end = EndToken(9) if counted > len(tokens) else None
    found = RepetitionDetector(1, 1, 3).cut(SequenceDelta(1, tokens, counted, finish, end=end))
    assert (list(found.token_ids), found.finish_reason) == (kept, says)
    assert found.end == (end if says == "stop" else None)


def test_a_stream_that_repeats_itself_is_aborted_and_says_so(rig: Rig) -> None:
    sink = rig.open(replace(STREAM, repetition=(4, 1, 3)))
    other = rig.open()
    rig.runtime.step(1, 2, 5, 6)
    rig.runtime.step(5, 6, 5)
    rig.runtime.step(6, 5, 6)  # 5 6 three times, and two tokens too many
    until(lambda: sink.ends)
    assert (sink.ids, sink.finish, sink.chunks[-1].completion_tokens) == ([1, 2, 5, 6, 5, 6, 5, 6], "repetition", 8)
    until(lambda: rig.dispatcher.registry.finished["repetition"] == 1)
    assert len(rig.runtime.aborted) == 1
    rig.runtime.step(9, finish="length")
    until(lambda: other.ends)
    assert other.ids == [1, 2, 5, 6, 5, 6, 5, 6, 5, 6, 9], "others go on"
    until(rig.is_free)


def test_a_whole_answer_that_repeats_itself(rig: Rig) -> None:
    sink = rig.open(replace(AT_ONCE, repetition=(1, 1, 4)))
    for _ in range(6):
        rig.runtime.step(3)
    until(lambda: sink.ends)
    assert (sink.ids, sink.finish, sink.chunks[0].completion_tokens) == ([3, 3, 3, 3], "repetition", 4)
    until(rig.is_free)


def test_a_token_costs_microseconds_whatever_the_text_is() -> None:
    """All streams share the dispatcher's thread; one that repeats a single token is the worst for a naive search."""
    detector = RepetitionDetector(1024, 1024, 1024)
    same = SequenceDelta(1, np.zeros(2000, int).tolist(), 2000)
    best = min(_seconds(detector, same) for _ in range(3))
    assert best / 2000 < 50e-6


def _seconds(detector: RepetitionDetector, delta: SequenceDelta) -> float:
    began = time.thread_time()
    detector.cut(delta)
    return time.thread_time() - began


@pytest.mark.parametrize("cut", range(6))
def test_tokens_of_an_earlier_attempt_count(cut: int) -> None:
    detector, ids = RepetitionDetector(2, 1, 3), [7, 1, 2, 1, 2, 1, 2, 9]
    detector.replay(ids[:cut])
    assert not detector.found
    assert list(detector.cut(SequenceDelta(1, ids[cut:], len(ids) - cut)).token_ids) == ids[cut:7]
