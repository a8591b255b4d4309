"""How prompts share a step."""

from __future__ import annotations

import pytest

from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BLOCK_TOKENS
from serving.runtimes.openvino.sampling import Sampler
from serving.runtimes.openvino.scheduler import ScheduledSequence, share

SPAN = 1_000  # where a token costs twice as much as at the beginning


def prompt(arrival: int, tokens: int, computed: int = 0, index: int = 0) -> ScheduledSequence:
    request = EngineRequest(arrival, list(range(tokens)), Sampling(max_tokens=1), index=index)
    return ScheduledSequence(request, Sampler(request.sampling, []), arrival, list(range(tokens)), computed)


@pytest.mark.parametrize(("computed", "tokens"), [(0, 128), (1_024, 64), (7_008, 32)])
def test_a_step_is_shorter_in_tokens_the_deeper_it_is_in_a_prompt(computed, tokens):
    assert [chunk.count for chunk in share([prompt(0, 9_000, computed)], 128, SPAN)] == [tokens]


def test_short_prompts_take_what_the_long_one_leaves_at_their_own_price():
    long, short, next_one = prompt(0, 9_000, 7_008), prompt(1, 40), prompt(2, 60)
    given = {chunk.sequence.arrival: chunk.count for chunk in share([long, short, next_one], 128, SPAN)}
    assert given == {0: 32, 1: 40, 2: 32}  # half of 128 buys 8 tokens at the price of 8, and a block is the least


def test_however_deep_a_prompt_goes_on():
    assert [chunk.count for chunk in share([prompt(0, 90_000, 80_000)], 32, SPAN)] == [32]


def test_without_a_span_depth_costs_nothing():
    assert [chunk.count for chunk in share([prompt(0, 9_000, 7_008)], 128)] == [128]


def test_nobody_waits_for_the_further_sequences_of_somebody_elses_request():
    """One request with n = 32, and behind it another one that is as short."""
    greedy = [prompt(number, 31, index=number) for number in range(32)]
    given = {chunk.sequence.arrival: chunk.count for chunk in share([*greedy, prompt(32, 31)], 96)}
    assert given == {0: 31, 32: 31, 1: 31}


@pytest.mark.parametrize("budget", (32, 33, 95, 100, 127, 128))
def test_a_prompt_is_cut_only_between_blocks_and_never_leaves_one_token(budget):
    """So that it gives the same bits however it is divided."""
    rest = [prompt(number, tokens) for number, tokens in enumerate((31, 33, 64, 65, 161))]
    while rest:
        chunks = share(rest, budget)
        # one more token ends a prompt, and the longest waiting one gets a block whatever there is room for
        assert sum(chunk.count for chunk in chunks) <= max(budget, BLOCK_TOKENS) + len(chunks)
        for chunk in chunks:
            assert chunk.count > 1 and (chunk.sample or chunk.end % BLOCK_TOKENS == 0)
            chunk.sequence.computed = chunk.end
        rest = [sequence for sequence in rest if sequence.pending]
