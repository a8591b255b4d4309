"""What a sequence and a request are while they run. Owned by ``serving.streaming.dispatcher``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import orjson

from contract.chunks import Chunk, Job
from contract.errors import ServingError
from serving.detokenizer.text import TextStream


class Sink(Protocol):
    """Where one request's responses go."""

    def send(self, chunks: list[Chunk], final: bool) -> None: ...

    def fail(self, error: ServingError) -> None:
        """Send the error as the last response."""

    def drop(self) -> None:
        """End the request without a response: nobody reads it."""

    def cancelled(self) -> bool: ...


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
    sent_beat: int = 0  # the detokenizer's heartbeat and the time when the last chunk left
    sent_at: float = 0.0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish: int = 0
    aborted: bool = False
    ids: list[int] = field(default_factory=list)  # generated, not sent yet; likewise the two below
    log_probs: list[float] = field(default_factory=list)
    top_logprobs: list[object] = field(default_factory=list)
    text: TextStream | None = None  # only when the request answers at once and has stop strings

    def has_begun(self) -> bool:
        """False until its first chunk has left."""
        return self.seq > 0

    def take(self) -> Chunk:
        """Everything that was generated since the last chunk, as the next one."""
        self.seq += 1
        chunk = Chunk(
            self.slot, self.generation, self.seq, self.index, self.prompt_tokens, self.completion_tokens,
            self.cached_tokens, self.finish, self.ids, self.log_probs,
            orjson.dumps(self.request.job.text) if self.seq == 1 else b"",
            orjson.dumps(self.top_logprobs) if self.top_logprobs else b"",
        )  # fmt: skip
        self.ids = []
        self.log_probs, self.top_logprobs = [], []
        return chunk


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """One Triton request: n sequences that share a sink."""

    request_id: str
    sink: Sink
    job: Job
    open: int
    gone: bool = False
    sending: bool = False  # a response of it is with a helper of ``serving.streaming.senders``
    sequences: list[ActiveSequence] = field(default_factory=list)
    ready: list[Chunk] = field(default_factory=list)  # finished sequences of a request that answers at once
