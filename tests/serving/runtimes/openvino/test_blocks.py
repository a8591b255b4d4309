"""The block pool and the scheduler without a model: no block is lost, none is shared wrongly, nobody starves."""

from __future__ import annotations

import random

import pytest

from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BLOCK_TOKENS, BlockPool, blocks_for, digests, salted
from serving.runtimes.openvino.sampling import Sampler
from serving.runtimes.openvino.scheduler import ScheduledChunk, ScheduledSequence, Scheduler


def sequence(number: int, prompt: int | list[int], priority: int = 0) -> ScheduledSequence:
    tokens = list(range(number * 10_000, number * 10_000 + prompt)) if isinstance(prompt, int) else list(prompt)
    sampling = Sampling(max_tokens=1000)
    return ScheduledSequence(
        EngineRequest(number, tokens, sampling, priority), Sampler(sampling, tokens), number, tokens
    )


def compute(scheduler: Scheduler, chunks: list[ScheduledChunk]) -> None:
    for chunk in chunks:
        scheduler.done(chunk)
        if chunk.sample:
            chunk.sequence.tokens.append(7)


def test_digests_cover_everything_before() -> None:
    tokens = list(range(100))
    whole = list(digests(tokens))
    assert len(whole) == 3 and whole[:2] == list(digests(tokens[:70]))
    assert list(digests([9, *tokens[1:]]))[1] != whole[1]
    assert list(digests(tokens[32:], whole[0])) == whole[1:]


def test_equal_prefixes_share_blocks() -> None:
    scheduler = Scheduler(BlockPool(20), 8, 128)
    first, second = sequence(1, 100), sequence(1, 100)
    scheduler.add(first)
    compute(scheduler, scheduler.plan())
    scheduler.add(ScheduledSequence(EngineRequest(2, second.tokens, Sampling(4)), second.sampler, 2, second.tokens))
    chunks = scheduler.plan()
    newcomer = chunks[-1].sequence
    assert newcomer.cached == 96 and newcomer.blocks[:3] == first.blocks[:3]
    assert (chunks[-1].start, chunks[-1].count) == (96, 4)


def test_a_wholly_cached_prompt_still_computes_its_last_token() -> None:
    scheduler = Scheduler(BlockPool(20), 8, 128)
    for number in (1, 2):
        scheduler.add(sequence(number, list(range(64))))
        chunks = scheduler.plan()
        compute(scheduler, chunks)
    assert chunks[-1].sequence.cached == 32


def test_cached_blocks_are_reused_oldest_first_when_room_is_needed() -> None:
    pool = BlockPool(4)
    blocks = [pool.allocate() for _ in range(4)]
    known = list(digests(list(range(128))))
    for block, digest in zip(blocks, known, strict=True):
        pool.publish(block, digest)
    pool.release(blocks)
    assert pool.used == 0 and pool.match(known) == blocks
    assert pool.allocate() == blocks[3]  # the end of a prefix goes first
    assert pool.match(known) == blocks[:3]


def test_long_prompts_neither_stall_decoders_nor_short_prompts() -> None:
    scheduler = Scheduler(BlockPool(1000), 8, 128)
    scheduler.add(sequence(1, 20))
    compute(scheduler, scheduler.plan())
    scheduler.add(sequence(2, 5000))
    scheduler.add(sequence(3, 30))
    chunks = {chunk.sequence.request.sequence_id: chunk for chunk in scheduler.plan()}
    assert chunks[1].count == 1 and chunks[3].sample
    assert chunks[2].count >= 60 and 112 <= sum(chunk.count for chunk in chunks.values()) <= 144


def test_priority_goes_first() -> None:
    scheduler = Scheduler(BlockPool(100), 1, 128)
    for number, priority in ((1, 0), (2, 0), (3, 5)):
        scheduler.add(sequence(number, 10, priority))
    assert [chunk.sequence.request.sequence_id for chunk in scheduler.plan()] == [3]


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic_loses_no_block_and_finishes(seed: int) -> None:
    """Three times more work than blocks: preemption happens, invariants hold at every step, all streams finish."""
    rng = random.Random(seed)
    pool = BlockPool(24)
    scheduler = Scheduler(pool, 16, 64)
    goal = {number: rng.randint(1, 200) for number in range(60)}
    waiting = list(goal)
    live: dict[int, ScheduledSequence] = {}
    for _ in range(20_000):
        if waiting and rng.random() < 0.3:
            number = waiting.pop()
            live[number] = sequence(number % 7, rng.randint(1, 300), priority=rng.choice((0, 0, 1)))
            live[number].request = EngineRequest(number, live[number].tokens[:], Sampling(1000))
            live[number].arrival = number
            scheduler.add(live[number])
        chunks = scheduler.plan()
        check(pool, scheduler, chunks)
        compute(scheduler, chunks)
        for number, one in list(live.items()):
            if len(one.tokens) - len(one.request.input_ids) >= goal[number] or rng.random() < 0.0005:
                assert scheduler.remove(number) is one
                del live[number]
        if not waiting and not live:
            break
    assert not live and scheduler.preemptions > 0
    assert pool.used == 0 and pool.available == pool.total


def check(pool: BlockPool, scheduler: Scheduler, chunks: list[ScheduledChunk]) -> None:
    holders = list(scheduler.sequences())
    assert pool.used == len({block for one in holders for block in one.blocks})
    assert chunks or not holders
    for chunk in chunks:
        one = chunk.sequence
        assert chunk.start == one.computed and 0 < chunk.count <= one.pending
        assert len(one.blocks) >= blocks_for(chunk.start + chunk.count)
        private = one.blocks[chunk.start // BLOCK_TOKENS : blocks_for(chunk.start + chunk.count)]
        written = [b for other in holders if other is not one for b in other.blocks if b in private]
        assert not written, "a step writes into a block that somebody else reads"


def test_prefixes_with_different_salts_share_nothing() -> None:
    tokens = list(range(2 * BLOCK_TOKENS))
    chains = [list(digests(tokens, salted(salt))) for salt in ("", "a", "b", "a")]
    assert chains[1] == chains[3] and chains[0] == list(digests(tokens))
    assert len({digest for chain in chains for digest in chain}) == 6
