"""What every transport does with chunks: check their order, collect a whole answer, space retries. Pure."""

from __future__ import annotations

import itertools
import os
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from client.errors import (
    ChunkMissing,
    ClientError,
    ConnectError,
    EngineUnavailable,
    Overloaded,
    RequestTimeout,
    StreamCut,
)
from client.refusals import RESTARTING
from client.types import Completion, Options, Result, Retry, StreamChunk, TopLogprobs


def request_ids() -> Callable[[], str]:
    """Ids unique over processes, forked ones too, and hosts; one random part per client, a counter after it."""
    prefix, counter = uuid.uuid4().hex[:20], itertools.count()
    return lambda: f"{prefix}-{os.getpid():x}-{next(counter)}"


class Order:
    """Checks that each sequence's ``chunk_index`` counts 0, 1, 2… and that all n sequences finish."""

    def __init__(self, n: int = 1) -> None:
        self._next = [0] * n
        self._tokens = [0] * n
        self._open = n

    def check(self, chunk: StreamChunk) -> StreamChunk:
        if not 0 <= chunk.sequence_index < len(self._next):
            raise ChunkMissing(f"sequence_index {chunk.sequence_index} of a request for {len(self._next)} sequences")
        expected = self._next[chunk.sequence_index]
        if chunk.chunk_index != expected:
            raise ChunkMissing(
                f"sequence {chunk.sequence_index}: chunk {chunk.chunk_index} came where {expected} was due"
            )
        self._next[chunk.sequence_index] = expected + 1
        self._tokens[chunk.sequence_index] = chunk.completion_tokens
        self._open -= chunk.finish_reason is not None
        return chunk

    @property
    def chunks(self) -> int:
        return sum(self._next)

    @property
    def tokens(self) -> int:
        """Of all sequences, as the server counts them."""
        return sum(self._tokens)

    @property
    def started(self) -> bool:
        return any(self._next)

    @property
    def complete(self) -> bool:
        return self._open <= 0

    def ended(self) -> None:
        if not self.complete:
            raise StreamCut(f"the stream ended after {sum(self._next)} chunks without a finish reason; try again")


class _Collected:
    __slots__ = ("ids", "last", "logprobs", "prompt_ids", "prompt_logprobs", "prompt_tops", "text", "tops")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.tops: list[tuple[tuple[int, float], ...]] = []
        self.prompt_ids: list[int] = []
        self.prompt_logprobs: list[float] = []
        self.prompt_tops: list[TopLogprobs] = []
        self.last = StreamChunk("")

    def add(self, chunk: StreamChunk) -> None:
        self.text.append(chunk.text)
        self.ids += chunk.token_ids
        self.logprobs += chunk.logprobs
        self.tops += chunk.top_logprobs
        self.prompt_ids += chunk.prompt_ids
        self.prompt_logprobs += chunk.prompt_logprobs
        self.prompt_tops += chunk.prompt_top_logprobs
        self.last = chunk

    def choice(self) -> Completion:
        if self.last.finish_reason is None:
            raise StreamCut("a sequence has no finish reason; try again")
        return Completion(
            "".join(self.text), self.last.finish_reason, self.last.completion_tokens,
            tuple(self.ids), tuple(self.logprobs), tuple(self.tops),
        )  # fmt: skip


class Collector:
    """Chunks of one request in, one ``Result`` out."""

    def __init__(self, n: int = 1) -> None:
        self._sequences = [_Collected() for _ in range(n)]

    def add(self, chunk: StreamChunk) -> None:
        self._sequences[chunk.sequence_index].add(chunk)

    def result(self, request_id: str) -> Result:
        """Raises ``StreamCut`` when a sequence has no finish reason."""
        choices = tuple(sequence.choice() for sequence in self._sequences)
        last = [sequence.last for sequence in self._sequences]
        first = self._sequences[0]
        return Result(
            request_id, choices, max(c.prompt_tokens for c in last), max(c.cached_tokens for c in last),
            tuple(first.prompt_ids), tuple(first.prompt_logprobs), tuple(first.prompt_tops),
        )  # fmt: skip


def collect(request_id: str, options: Options, chunks: Iterable[StreamChunk]) -> Result:
    collector = Collector(options.n)
    for chunk in chunks:
        collector.add(chunk)
    return collector.result(request_id)


# Seconds between attempts at a known server that is being waited for: an answer that it broke off should not stand for
# ten more after its restart.
SHORTEST, LONGEST = 0.1, 1.0


def retry_delay(error: ClientError, attempt: int, retry: Retry, started: bool, patience: float = 0.0) -> float | None:
    """Seconds to wait before try number ``attempt + 1``; ``None`` when it must not be repeated.

    ``patience``: seconds for which the outage of a known server is still waited out, however many attempts that takes.

    A request that has shown text is never repeated: the caller would see two answers spliced together. It is resumed
    (``resume_delay``) where the server accepts ``resume_ids``.
    """
    if started or retry.attempts == 1 or not isinstance(error, (ConnectError, Overloaded, EngineUnavailable)):
        return None
    wait = min(retry.longest, retry.backoff * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
    asked = float(getattr(error, "retry_after", None) or 0.0)
    if attempt < retry.attempts and asked <= retry.longest:
        return max(wait, asked)
    if isinstance(error, Overloaded) or patience <= 0.0 or asked > patience:
        return None
    return max(asked, min(wait, patience, LONGEST), SHORTEST)


def breaks_off(error: Exception) -> bool:
    """Whether another server, or this one after its restart, could resume the answer. A server that stalls in the
    middle of an answer counts as gone."""
    if isinstance(error, RequestTimeout):
        return error.phase == "between chunks"
    return isinstance(error, (ConnectError, EngineUnavailable, StreamCut))


def refuses_to_resume(error: Exception) -> bool:
    """Whether the server names ``resume_ids``: it cannot resume this answer, or knows no such input at all."""
    return "resume_ids" in str(error)


ONE_SEQUENCE = "only answers with n = 1 do"


def unresumed(broken: ClientError, why: str) -> ClientError:
    """``broken``, the error that ended an answer, with the reason why the answer cannot be resumed."""
    if why != str(broken):
        what = str(broken).removesuffix(RESTARTING if why.endswith(RESTARTING) else "")
        broken.args = (f"{what}; the answer cannot be resumed: {why}",)
    return broken


def resume_delay(
    error: ClientError, attempt: int, retry: Retry, elsewhere: bool, patience: float = 0.0
) -> float | None:
    """``retry_delay`` for an answer that is resumed after the tokens it has. ``attempt`` counts from the last token on;
    ``elsewhere``: the next attempt goes to another server, which has nothing to recover from."""
    if attempt == 1 and elsewhere and breaks_off(error) and retry.attempts > 1:
        return 0.0
    if isinstance(error, (RequestTimeout, StreamCut)) and breaks_off(error):  # the server is there: nothing to wait for
        return retry_delay(EngineUnavailable(str(error)), attempt, retry, False)
    return retry_delay(error, attempt, retry, False, patience)


def resumed(options: Options, ids: Sequence[int]) -> Options:
    """The options of an attempt that resumes after ``ids``; what was asked about the prompt has been answered."""
    return replace(
        options, resume_ids=(*options.resume_ids, *ids), prompt_logprobs=False, prompt_top_logprobs=0,
        return_prompt_ids=False,
    )  # fmt: skip
