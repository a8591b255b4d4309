"""A runtime, sinks and a detokenizer that do what a test tells them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from contract.ack_table import BEAT_SECONDS, AckTable
from contract.chunks import Chunk, IntArray, unpack
from contract.errors import InvalidRequest, ServingError
from contract.finish import FINISH_CODES, FinishReason
from serving.runtimes.base import CAPABILITIES, EngineRequest, RuntimeLimits, RuntimeStats, SequenceDelta
from serving.streaming.dispatcher import Dispatcher


class FakeRuntime:
    """Tokens come when the test says ``step``; an aborted stream ends at once, as the protocol promises."""

    capabilities = CAPABILITIES

    def __init__(self, dispatcher: Dispatcher, max_streams: int = 32) -> None:
        self.limits = RuntimeLimits(1000, 900, 152064, max_streams)
        self.submitted: dict[int, EngineRequest] = {}  # live ones
        self.seen: list[EngineRequest] = []
        self.aborted: list[int] = []
        self.refuse_after = 10**9  # submissions
        self.on_submit: Callable[[EngineRequest], None] = lambda request: None
        self._dispatcher = dispatcher

    def submit(self, request: EngineRequest) -> None:
        if len(self.seen) >= self.refuse_after:
            raise InvalidRequest("guided_decoding_guide", "does not compile; correct it")
        self.seen.append(request)
        self.submitted[request.sequence_id] = request
        self.on_submit(request)

    def abort(self, sequence_id: int) -> None:
        self.aborted.append(sequence_id)
        if self.submitted.pop(sequence_id, None):
            self._dispatcher.on_step([SequenceDelta(sequence_id, (), 0, "cancelled")])

    def step(self, *tokens: int, streams: Sequence[int] = (), finish: FinishReason | None = None) -> None:
        """One engine step: the same tokens for every live stream (or those given)."""
        live = [number for number in (streams or list(self.submitted)) if number in self.submitted]
        if finish:
            for number in live:
                del self.submitted[number]
        log_probs = [-0.5] * len(tokens)
        self._dispatcher.on_step([SequenceDelta(n, tokens, len(tokens), finish, log_probs) for n in live])

    def fail(self, sequence_id: int, error: str) -> None:
        self.submitted.pop(sequence_id)
        self._dispatcher.on_step([SequenceDelta(sequence_id, (), 0, "error", error=error)])

    def stats(self) -> RuntimeStats:
        return RuntimeStats(running=len(self.submitted))

    def close(self) -> None:
        self.submitted.clear()


@dataclass(eq=False)
class FakeSink:
    """Keeps what it is told, in order; breaks on demand."""

    responses: list[list[Chunk]] = field(default_factory=list)
    error: ServingError | None = None
    ends: int = 0  # final flags sent: exactly one is right
    dropped: bool = False
    broken: bool = False
    is_cancelled: bool = False

    def send(self, words: IntArray, final: bool) -> None:
        if self.broken:
            raise RuntimeError("the response sender is closed")
        assert not self.ends, "a response after the last one"
        self.responses.append(list(unpack(words)))
        self.ends += final

    def fail(self, error: ServingError) -> None:
        if self.broken:
            raise RuntimeError("the response sender is closed")
        self.error = error
        self.ends += 1

    def drop(self) -> None:
        self.dropped = True
        self.ends += 1

    def cancelled(self) -> bool:
        return self.is_cancelled

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for response in self.responses for chunk in response]

    @property
    def ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.ids]

    @property
    def finish(self) -> str:
        return FINISH_CODES[self.chunks[-1].finish] if self.chunks else ""


class Acker:
    """The detokenizer's side of the ack table: a heartbeat, and acks when told or at once."""

    def __init__(self, ack_table: AckTable) -> None:
        self.ack_table = ack_table
        self.beating = True
        self._stopped = threading.Event()
        self._sinks: list[FakeSink] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ack(self, chunk: Chunk) -> None:
        self.ack_table.ack(chunk.slot, chunk.generation, chunk.seq)

    def follow(self, sink: FakeSink) -> FakeSink:
        """Acknowledge whatever this sink gets."""
        self._sinks.append(sink)
        return sink

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        next_beat, done = 0.0, {}
        while not self._stopped.wait(0.001):
            if self.beating and time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_SECONDS
                self.ack_table.beat()
            for sink in list(self._sinks):
                count = len(sink.responses)
                for response in sink.responses[done.get(sink, 0) : count]:
                    for chunk in response:
                        self.ack(chunk)
                done[sink] = count
