"""Which sequences compute which tokens in the next step: in-flight batching with chunked prefill.

Every decoding sequence gets its token in every step. Prompts share what is left of the step: half goes to the one that
waited longest, the rest to those with the least left, so that a long prompt neither stalls the decoders nor the short
prompts behind it. A token deep in a long prompt counts for more than one at its beginning, by what its attention costs,
so that steps in company do not grow with the context. When KV blocks run out the youngest sequence of the lowest
priority gives its blocks back and waits at the head of its queue; recomputing it later yields the same continuation.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BLOCK_TOKENS, BlockPool, blocks_for, digests, salted
from serving.runtimes.openvino.drafts import Drafter
from serving.runtimes.openvino.sampling import Sampler

FLAT = math.inf  # an attention span: tokens cost the same wherever they stand
LEAST_PREFILL = 32  # tokens of prompt work in a step, however many sequences decode
# Tokens of prompts in a step that get a score: each takes the logits of the whole vocabulary, about a millisecond.
MOST_SCORED = 32


@dataclass(eq=False, slots=True)
class ScheduledSequence:
    """One sequence. ``computed`` of its ``tokens`` (prompt, then answer) have their keys and values in ``blocks``."""

    request: EngineRequest
    sampler: Sampler
    arrival: int
    tokens: list[int]
    computed: int = 0
    begun: float = 0.0  # ``time.monotonic`` when it left the queue for the first time
    cached: int = -1  # prompt tokens found in the prefix cache; -1 until they have been looked up
    blocks: list[int] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)  # digests of the full blocks, as far as they were needed
    to_score: int = 0  # positions of the prompt whose successors get a score: all but the last, or none
    scored: int = 0  # how many of them have theirs; a preempted sequence keeps them
    drafter: Drafter = field(default_factory=Drafter)
    served: int = 0  # the step that it came before, or whose token it got last

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def order(self) -> tuple[int, int]:
        """Sorts by urgency: higher priority first, then the older."""
        return -self.request.priority, self.arrival

    def digest(self, count: int) -> list[bytes]:
        """Digests of the first ``count`` full blocks."""
        done = len(self.chain)
        if done < count:
            fresh = self.tokens[done * BLOCK_TOKENS : count * BLOCK_TOKENS]
            self.chain.extend(digests(fresh, self.chain[-1] if self.chain else salted(self.request.cache_salt)))
        return self.chain[:count]


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Compute ``count`` tokens of ``sequence`` from ``start``; ``sample`` when its last token is among them, and then
    ``drafts`` behind it."""

    sequence: ScheduledSequence
    start: int
    count: int
    drafts: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def tokens(self) -> list[int]:
        return [*self.sequence.tokens[self.start : self.end], *self.drafts]

    @property
    def sample(self) -> bool:
        return self.end == len(self.sequence.tokens)

    @property
    def scores(self) -> int:
        """How many positions at its end, before one that is sampled, get a score."""
        return max(0, min(self.end, self.sequence.to_score) - max(self.start, self.sequence.scored))

    def without_sample(self) -> ScheduledChunk:
        """What of the chunk may stay where its last token is to be computed again in the next step."""
        return ScheduledChunk(self.sequence, self.start, in_blocks(self.start, self.count, self.count - 2))

    @property
    def rows(self) -> int:
        """Positions at its end whose logits are needed."""
        return self.scores + self.sample + len(self.drafts)


class Scheduler:
    """``step_tokens`` is the target size of a step, in tokens at the beginning of a prompt; ``attention_span``: the
    context at which a token costs twice as much as there; ``drafts``: a sequence that is alone gets some.
    Not thread-safe: the engine's thread owns it."""

    def __init__(
        self, pool: BlockPool, max_streams: int, step_tokens: int, drafts: bool = False, attention_span: float = FLAT
    ) -> None:
        self._attention_span = attention_span
        self.pool = pool
        self.preemptions = 0
        self._max_streams = max_streams
        self._step_tokens = step_tokens
        self._with_drafts = drafts
        self._running: dict[int, ScheduledSequence] = {}
        self._waiting: list[tuple[tuple[int, int], ScheduledSequence]] = []

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def sequences(self) -> Iterator[ScheduledSequence]:
        yield from self._running.values()
        yield from (sequence for _, sequence in self._waiting)

    def add(self, sequence: ScheduledSequence) -> None:
        heapq.heappush(self._waiting, (sequence.order, sequence))

    def remove(self, sequence_id: int) -> ScheduledSequence | None:
        """Forget a sequence, running or waiting; its blocks are free at once."""
        sequence = self._running.pop(sequence_id, None)
        if sequence is not None:
            self._drop_blocks(sequence)
            return sequence
        for entry in self._waiting:
            if entry[1].request.sequence_id == sequence_id:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
                return entry[1]
        return None

    def plan(self) -> list[ScheduledChunk]:
        """The next step's work; empty only when there is none. Blocks for it are allocated."""
        self._grow()
        self._admit()
        decoding = [s for s in self._running.values() if s.pending == 1]
        prefilling = [s for s in self._running.values() if s.pending > 1]
        chunks = [ScheduledChunk(sequence, sequence.computed, 1, self._drafts(sequence)) for sequence in decoding]
        budget = max(LEAST_PREFILL, self._step_tokens - len(decoding))
        span = self._attention_span if len(self._running) > 1 else FLAT  # one that is alone keeps nobody waiting
        return chunks + few_scored(share(prefilling, budget, span))

    def done(self, chunk: ScheduledChunk) -> None:
        """The chunk was computed: its full blocks may be shared from now on."""
        chunk.sequence.scored += chunk.scores
        self._computed(chunk.sequence, chunk.count)

    def accept(self, sequence: ScheduledSequence) -> None:
        """A draft was computed with the last chunk, and its sequence's next token is that draft."""
        self._computed(sequence, 1)

    def _computed(self, sequence: ScheduledSequence, count: int) -> None:
        first = sequence.computed // BLOCK_TOKENS
        sequence.computed += count
        last = sequence.computed // BLOCK_TOKENS
        if last > first:
            known = sequence.digest(last)
            for number in range(first, last):
                self.pool.publish(sequence.blocks[number], known[number])

    def _drafts(self, sequence: ScheduledSequence) -> tuple[int, ...]:
        """For a sequence that is alone and may repeat itself, where there are blocks for them."""
        if not self._with_drafts or len(self._running) > 1 or self._waiting:
            return ()
        if sequence.request.sampling.repetition_penalty >= sequence.drafter.terms.penalty:
            return ()
        drafts = sequence.drafter.propose(sequence.tokens)
        while len(sequence.blocks) < blocks_for(len(sequence.tokens) + len(drafts)):
            if not self.pool.available:
                return ()
            sequence.blocks.append(self.pool.allocate())
        return drafts

    def _grow(self) -> None:
        """One more block for each running sequence whose next token starts one, most urgent first."""
        for sequence in sorted(self._running.values(), key=lambda s: s.order):
            if sequence.request.sequence_id not in self._running:
                continue  # preempted a moment ago for a more urgent one
            while len(sequence.blocks) < blocks_for(len(sequence.tokens)):
                if self.pool.available:
                    sequence.blocks.append(self.pool.allocate())
                    continue
                victim = max(self._running.values(), key=lambda s: s.order)
                self._preempt(victim)
                if victim is sequence:
                    break

    def _preempt(self, victim: ScheduledSequence) -> None:
        self.preemptions += 1
        del self._running[victim.request.sequence_id]
        self._drop_blocks(victim)
        victim.computed = 0
        self.add(victim)

    def _drop_blocks(self, sequence: ScheduledSequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_streams:
            sequence = self._waiting[0][1]
            scoring = sequence.scored < sequence.to_score  # a token that is not computed has no logits
            useful = 0 if scoring else (len(sequence.tokens) - 2) // BLOCK_TOKENS  # see ``in_blocks``
            prefix = self.pool.match(sequence.digest(useful))
            fresh = blocks_for(len(sequence.tokens)) - len(prefix)
            # each running sequence may need a block soon: leave one, or the newcomer would be preempted at once
            if fresh + len(self._running) > self.pool.available - self.pool.idle_among(prefix):
                return
            heapq.heappop(self._waiting)
            self.pool.acquire(prefix)
            sequence.blocks = prefix + [self.pool.allocate() for _ in range(fresh)]
            sequence.computed = len(prefix) * BLOCK_TOKENS
            if sequence.cached < 0:
                sequence.begun = time.monotonic()
                sequence.cached = min(sequence.computed, len(sequence.request.input_ids))
            self._running[sequence.request.sequence_id] = sequence


def in_blocks(start: int, pending: int, wanted: int) -> int:
    """How many of a sequence's ``pending`` tokens from ``start`` on a step computes where there is room for ``wanted``:
    whole blocks of keys or all tokens, and one more rather than leave one over.

    The same prompt then gives the same bits however it is divided. Keys of 8 bits are rounded with a scale per block
    and channel, and rounded again whenever a token joins the block; and PagedAttention adds up in another order for a
    single token. With activations of 8 bits a last bit grows into tenths of a nat."""
    if wanted >= pending - 1:
        return pending
    return max(0, (start + wanted) // BLOCK_TOKENS * BLOCK_TOKENS - start)


def share(prompts: list[ScheduledSequence], budget: int, attention_span: float = FLAT) -> list[ScheduledChunk]:
    """Split the work of ``budget`` tokens: half is the longest waiting prompt's, the rest goes to those with the least
    left; among equals, to the first sequence of each request before any other one's second. To the nearest whole
    block (see ``in_blocks``) that needs no more tokens; the longest waiting prompt gets one in any case.

    More tokens would be dear: a multiplication of 129 rows takes a fifth longer than one of 128."""
    if not prompts:
        return []
    price = {id(s): 1 + s.computed / attention_span for s in prompts}
    oldest = min(prompts, key=lambda s: s.order)
    half = budget - budget // 2
    wanted = max(BLOCK_TOKENS, nearest(half / price[id(oldest)], budget))
    given = {id(oldest): in_blocks(oldest.computed, oldest.pending, wanted)}
    left = budget - min(half, given[id(oldest)] * price[id(oldest)])
    for sequence in sorted(prompts, key=lambda s: (s.pending, s.request.index, s.order)):
        before, room = given.get(id(sequence), 0), budget - sum(given.values())
        if left <= 0 or room <= 0:
            break
        wanted = before + nearest(left / price[id(sequence)], room)
        given[id(sequence)] = in_blocks(sequence.computed, sequence.pending, wanted)
        left -= (given[id(sequence)] - before) * price[id(sequence)]
    return [ScheduledChunk(s, s.computed, given[id(s)]) for s in prompts if given.get(id(s))]


def nearest(tokens: float, room: int) -> int:
    """``tokens`` such that whole blocks of them are the nearest that there is room for."""
    return min(room, int(tokens) + BLOCK_TOKENS // 2)


def few_scored(chunks: list[ScheduledChunk]) -> list[ScheduledChunk]:
    """The same, with ``MOST_SCORED`` tokens of sequences whose prompts are scored, or one more."""
    left, kept = MOST_SCORED, []
    for chunk in chunks:
        count = chunk.count
        if chunk.sequence.to_score:
            count = min(count, in_blocks(chunk.start, chunk.sequence.pending, left))
            left -= count
        if count:
            kept.append(ScheduledChunk(chunk.sequence, chunk.start, count))
    return kept
