"""One engine step: plan, forward, sample. Owned by one thread; knows nothing of processes or messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from contract.errors import InvalidRequest, to_wire
from contract.finish import FinishReason
from contract.prompt_part import PromptPart
from serving.runtimes.base import EndToken, EngineRequest, RuntimeStats, SequenceDelta
from serving.runtimes.openvino.blocks import BLOCK_TOKENS, BlockPool
from serving.runtimes.openvino.drafts import ALWAYS, Drafter, Terms
from serving.runtimes.openvino.endings import Ending
from serving.runtimes.openvino.sampling import GrammarError, GrammarState, NothingLeft, SampledToken, Sampler
from serving.runtimes.openvino.scheduler import FLAT, ScheduledChunk, ScheduledSequence, Scheduler
from serving.runtimes.openvino.scoring import score

GUIDE = "guided_decoding_guide"  # the field that a grammar's failure is blamed on
STEP_TOKENS = 128  # longer steps stall the decoders, shorter ones slow prompts down (cpu: 64-128 is best on 2 cores)
# Processor time of a step's guides together, for which all its sequences wait. Once it is spent, the slow ones that are
# left wait for the next step; once twice as much is, because some became slow together, the others do too.
GUIDES_SECONDS = 0.05
SLOW_SECONDS = 0.001  # of a guide per token; an ordinary one takes a tenth of it
log = logging.getLogger(__name__)


class Model(Protocol):
    def forward(self, chunks: Sequence[ScheduledChunk]) -> npt.NDArray[np.float32]: ...


class Engine:
    """``end_ids`` end a guided answer even when the request ignores them. ``drafts``: speculation for lone streams, on
    ``draft_terms``. ``attention_span``: see ``Scheduler``."""

    def __init__(
        self,
        model: Model,
        pool: BlockPool,
        max_streams: int,
        max_seq_len: int,
        end_ids: frozenset[int] = frozenset(),
        step_tokens: int = STEP_TOKENS,
        drafts: bool = False,
        draft_terms: Terms = ALWAYS,
        attention_span: float = FLAT,
    ) -> None:
        self._draft_terms = draft_terms
        self._model = model
        self._pool = pool
        self._scheduler = Scheduler(pool, max_streams, step_tokens, drafts, attention_span)
        self._max_seq_len = max_seq_len
        self._end_ids = end_ids
        self._arrivals = self._prompt_tokens = self._cached_tokens = self._generated = self._steps = 0
        self._drafted = self._accepted = 0

    @property
    def busy(self) -> bool:
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run, and how many wait."""
        return self._scheduler.running, self._scheduler.waiting

    def submit(self, request: EngineRequest, grammar: GrammarState | None = None, ending: Ending | None = None) -> None:
        """Raises ``ValueError`` for ``resume_ids`` that do not follow the grammar."""
        prompt = [int(token) for token in request.input_ids]
        sampler = Sampler(request.sampling, prompt, grammar, ending)
        self._arrivals += 1
        to_score = len(prompt) - 1 if request.sampling.prompt_logprobs else 0
        resumed = [int(token) for token in request.resume_ids]
        sampler.resume(resumed)
        self._scheduler.add(
            ScheduledSequence(
                request,
                sampler,
                self._arrivals,
                prompt + resumed,
                to_score=to_score,
                drafter=Drafter(self._draft_terms),
                served=self._steps,
            )
        )

    def abort(self, sequence_id: int) -> SequenceDelta | None:
        """The sequence's last delta, or None when it has already ended."""
        if self._scheduler.remove(sequence_id) is None:
            return None
        return SequenceDelta(sequence_id, (), 0, "cancelled")

    def step(self) -> list[SequenceDelta]:
        chunks = self._scheduler.plan()
        if not chunks:
            return []
        logits = self._model.forward(chunks)
        self._steps += 1
        deltas, guides = [], 0.0
        for planned, rows in in_turn(chunks, logits):
            sequence = planned.sequence
            sampler = sequence.sampler
            late = sampler.grammar and guides > GUIDES_SECONDS * (1 if is_slow(sampler) else 2)
            chunk = planned.without_sample() if late and planned.sample else planned
            scores = _scores(chunk, rows)
            self._scheduler.done(chunk)
            if chunk.sample:
                first, *more = self._sample_all(chunk, rows[-1 - len(chunk.drafts) :])
                sequence.served = self._steps
                guides += sampler.guide_seconds if sampler.grammar else 0.0
                deltas += [first._replace(prompt=scores) if scores else first, *more]
            elif scores:
                deltas.append(SequenceDelta(sequence.request.sequence_id, (), 0, prompt=scores))
        return deltas

    def stats(self) -> RuntimeStats:
        return RuntimeStats(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            kv_blocks_used=self._pool.used,
            kv_blocks_total=self._pool.total,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated,
            steps=self._steps,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            preemptions=self._scheduler.preemptions,
            kv_block_tokens=BLOCK_TOKENS,
        )

    def _sample_all(self, chunk: ScheduledChunk, rows: npt.NDArray[np.float32]) -> list[SequenceDelta]:
        """A delta for each token: one, and another for each draft that the sampler chose too."""
        sequence = chunk.sequence
        deltas = [self._sample(sequence, rows[0])]
        for draft, row in zip(chunk.drafts, rows[1:], strict=True):
            if deltas[-1].finish_reason or sequence.tokens[-1] != draft:
                break
            self._scheduler.accept(sequence)
            deltas.append(self._sample(sequence, row))
        if chunk.drafts:
            sequence.drafter.learn(len(deltas) - 1)
            self._drafted += len(chunk.drafts)
            self._accepted += len(deltas) - 1
        return deltas

    def _sample(self, sequence: ScheduledSequence, row: npt.NDArray[np.float32]) -> SequenceDelta:
        if len(sequence.sampler.output) == len(sequence.request.resume_ids):
            self._prompt_tokens += len(sequence.request.input_ids)
            self._cached_tokens += sequence.cached
        sequence_id = sequence.request.sequence_id
        try:
            choice = sequence.sampler.choose(row)
            sequence.sampler.accept(choice.token)
        except (ValueError, IndexError) as error:  # only this sequence is at fault: the others go on
            log.warning("sequence %d: %s", sequence_id, error)
            self._scheduler.remove(sequence_id)
            return SequenceDelta(sequence_id, (), 0, "error", error=_blamed(error, sequence.request))
        sequence.tokens.append(choice.token)
        self._generated += 1
        reason, shown = self._verdict(sequence, choice.token)
        if reason:
            self._scheduler.remove(sequence_id)
        return _delta(sequence, choice, reason, shown)

    def _verdict(self, sequence: ScheduledSequence, token: int) -> tuple[FinishReason | None, bool]:
        """Why the sequence ends with this token, if it does, and whether the token is part of the answer."""
        sampling, grammar = sequence.request.sampling, sequence.sampler.grammar
        made = len(sequence.sampler.output)
        if token in sampling.stop_token_ids and made > sampling.min_tokens:
            return "stop", False
        if grammar and grammar.finished:
            return "stop", token not in self._end_ids
        if made >= sampling.max_tokens or len(sequence.tokens) >= self._max_seq_len:
            return "length", True
        return None, True


def in_turn(
    chunks: Sequence[ScheduledChunk], logits: npt.NDArray[np.float32]
) -> list[tuple[ScheduledChunk, npt.NDArray[np.float32]]]:
    """Each chunk with its rows of ``logits``; at the end those with slow guides, of which the one comes first that has
    waited longest for a token."""
    found, row = [], 0
    for chunk in chunks:
        found.append((chunk, logits[row : row + chunk.rows]))
        row += chunk.rows
    return sorted(found, key=lambda pair: pair[0].sequence.served if is_slow(pair[0].sequence.sampler) else -1)


def is_slow(sampler: Sampler) -> bool:
    """Whether its guide takes long for a token."""
    return sampler.grammar is not None and max(sampler.grammar.seconds, sampler.guide_seconds) > SLOW_SECONDS


def _scores(chunk: ScheduledChunk, rows: npt.NDArray[np.float32]) -> PromptPart | None:
    if not chunk.scores:
        return None
    sequence, last = chunk.sequence, chunk.end - chunk.sample
    followers = sequence.tokens[last - chunk.scores + 1 : last + 1]
    return score(rows[: chunk.scores], followers, sequence.request.sampling.prompt_logprobs - 1)


def _blamed(error: Exception, request: EngineRequest) -> str:
    """Why a sequence fails: in wire form where its request is at fault."""
    if isinstance(error, GrammarError):
        return to_wire(InvalidRequest(GUIDE, str(error)))
    if isinstance(error, NothingLeft):
        sampling = request.sampling
        named = next((n for n in ("allowed_token_ids", "bad_words") if getattr(sampling, n)), "")
        field = named or (GUIDE if sampling.guide else "min_tokens")
        return to_wire(InvalidRequest(field, f"{error}; leave one of them out"))
    return str(error)


def _delta(
    sequence: ScheduledSequence, choice: SampledToken, reason: FinishReason | None, shown: bool
) -> SequenceDelta:
    return SequenceDelta(
        sequence.request.sequence_id,
        (choice.token,) if shown else (),
        1,
        reason,
        (choice.logprob,) if shown and choice.logprob is not None else (),
        (choice.top,) if shown and choice.top else (),
        sequence.cached,
        scheduled=sequence.begun,
        end=None if shown else EndToken(choice.token, choice.logprob, choice.top),
    )
