"""The state of a request and of each of its sequences while they run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from contract import chunks, prompt_part
from contract.ack_table import GONE, AckTable
from contract.chunks import IntArray, Job
from contract.errors import ServingError
from contract.finish import FINISH_CODES
from contract.prompt_part import PromptPart
from serving.detokenizer.text import TextStream
from serving.runtimes.base import EndToken, SequenceDelta, finite
from serving.streaming.repetition import RepetitionDetector


class Sink(Protocol):
    """Where one request's responses go."""

    def send(self, words: IntArray, final: bool) -> None:
        """Send one response: the packed chunk of a sequence, or those of all sequences one after the other."""

    def fail(self, error: ServingError) -> None:
        """Send the error as the last response."""

    def drop(self) -> None:
        """End the request without a response: nobody reads it."""


@dataclass(slots=True, eq=False)
class ActiveSequence:
    """One sequence from admission to its last response."""

    id: int
    request: ActiveRequest
    index: int  # which of the request's n sequences
    slot: int
    generation: int
    prompt_tokens: int
    seq: int = 0  # chunks sent
    sent_beat: int = 0  # on the detokenizer's clock, when the last chunk left
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish: int = 0  # index into FINISH_CODES
    ended: bool = False  # the last of ``ids`` is the token that ended it
    aborted: bool = False
    admitted: float = field(default_factory=time.monotonic)
    scheduled: float = 0.0  # when the engine took it up, and when its first token came; 0: not (known) yet
    first_token: float = 0.0
    ids: list[int] = field(default_factory=list)  # generated but not sent yet; likewise the two below
    log_probs: list[float] = field(default_factory=list)
    top_logprobs: list[object] = field(default_factory=list)
    prompt: list[PromptPart] = field(default_factory=list)  # what has not been said about the prompt yet
    repetition: RepetitionDetector | None = None  # only for a request that wants it
    text: TextStream | None = None  # only for stop strings of a request that is answered in one response

    @property
    def is_open(self) -> bool:
        """Its first chunk has opened its answer, or is on its way."""
        return self.seq > 0 and self.request.job.stream

    def is_acked(self, ack_table: AckTable) -> bool:
        """The detokenizer has processed every chunk sent so far."""
        return self.seq == 0 or ack_table.acked(self.slot, self.generation, self.seq)

    def is_owed(self, ack_table: AckTable) -> bool:
        """A chunk of an open answer is not acknowledged yet."""
        return self.is_open and not ack_table.acked(self.slot, self.generation, self.seq)

    def count(self, delta: SequenceDelta) -> None:
        """What a delta adds to its usage and times."""
        self.completion_tokens += delta.counted
        self.cached_tokens = max(self.cached_tokens, delta.cached_tokens)
        if delta.counted and not self.first_token:
            self.scheduled, self.first_token = delta.scheduled, time.monotonic()

    def add(self, delta: SequenceDelta) -> None:
        """What a delta adds to the next chunk."""
        self.ids += delta.token_ids
        if delta.prompt:
            self.prompt.append(delta.prompt)
        wanted = self.request.job.text
        if wanted.log_probs:
            self.log_probs += map(finite, delta.logprobs)
            self.top_logprobs += [[(token, finite(p)) for token, p in row] for row in delta.top_logprobs]
        if delta.end and wanted.end_token:
            self._add_end(delta.end, wanted.log_probs)
        if delta.finish_reason:
            self.finish = FINISH_CODES.index(delta.finish_reason)

    def _add_end(self, end: EndToken, scored: bool) -> None:
        """Without its score it stays away from scored ids: each has one."""
        if scored and end.logprob is None:
            return
        self.ended = True
        self.ids.append(end.token)
        if scored and end.logprob is not None:
            self.log_probs.append(finite(end.logprob))
            self.top_logprobs += [[(token, finite(p)) for token, p in end.top]] if end.top else []

    def take(self) -> IntArray:
        """Everything that was generated since the last chunk, packed as the next one."""
        self.seq += 1
        words = chunks.pack(
            self.slot, self.generation, self.seq, self.index, self.prompt_tokens, self.completion_tokens,
            self.cached_tokens, self.finish, self.ids, self.log_probs,
            options=orjson.dumps(self.request.job.text) if self.seq == 1 else b"",
            top_logprobs=orjson.dumps(self.top_logprobs) if self.top_logprobs else b"",
            prompt=prompt_part.join(self.prompt).pack() if self.prompt else b"", ended=self.ended,
        )  # fmt: skip
        self.prompt = []
        self.discard()
        return words

    def discard(self) -> None:
        """Forget what was generated but not sent."""
        self.ids, self.ended = [], False
        self.log_probs, self.top_logprobs = [], []


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """One Triton request: n sequences that share a sink."""

    request_id: str
    sink: Sink
    job: Job
    open: int  # sequences that have not ended
    problem: str = ""  # the error that ended it
    gone: bool = False  # nobody listens: nothing more is sent, and its sequences are aborted
    sequences: list[ActiveSequence] = field(default_factory=list)
    probes: int = 0  # sent so far
    prober: ActiveSequence | None = None  # sent the last one; None: before the first, or it has ended
    probe_beat: int = 0  # on the detokenizer's clock, and the time, when it left
    probe_at: float = field(default_factory=time.monotonic)
    finished: dict[int, IntArray] = field(default_factory=dict)  # without streaming: packed chunks by sequence index

    def probe(self, prober: ActiveSequence, beat: int, now: float) -> IntArray:
        """The words of the next probe: a chunk without number and ids."""
        self.probes += 1
        self.prober, self.probe_beat, self.probe_at = prober, beat, now
        return chunks.pack(prober.slot, prober.generation, 0, prober.index, 0, self.probes, 0, 0, [])

    def is_left(self, ack_table: AckTable) -> bool:
        """The last probe came through when its client was gone."""
        prober = self.prober
        return prober is not None and ack_table.probed(prober.slot, prober.generation, GONE)

    def probes_arrived(self, ack_table: AckTable) -> bool:
        """Every probe sent so far has come through."""
        prober = self.prober
        return prober is None or ack_table.probed(prober.slot, prober.generation, self.probes)
