"""A runtime, sinks and a detokenizer that do what a test tells them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract import feed
from contract.ack_table import BEAT_SECONDS, AckTable
from contract.chunks import Chunk, IntArray, unpack
from contract.errors import InvalidRequest, ServingError, from_wire
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
    """Keeps what it is told, in order; breaks on demand. What the feed brings for its answers counts as told to it."""

    responses: list[list[Chunk]] = field(default_factory=list)
    error: ServingError | None = None
    flags: int = 0  # final flags sent by the engine step: exactly one is right
    followed: bool = False  # a detokenizer opens an answer for each first chunk, however late it comes to it
    ended: set[tuple[int, int]] = field(default_factory=set)  # slot and generation of answers that have ended
    broken: bool = False
    probes: list[Chunk] = field(default_factory=list)

    @property
    def ends(self) -> int:
        opened = {(chunk.slot, chunk.generation) for chunk in self.chunks if chunk.seq == 1}
        return 0 if self.followed and opened - self.ended else self.flags

    def send(self, words: IntArray, final: bool) -> None:
        if self.broken:
            raise RuntimeError("the response sender is closed")
        assert not self.flags, "a response after the last one"
        self._take(words)
        self.flags += final

    def feed(self, kind: int, words: IntArray) -> None:
        if kind == feed.CHUNK:
            self._take(words)
            return
        if kind == feed.ERROR:
            self.error = from_wire(feed.error_text(words))
        self.ended.add((int(words[0]), int(words[1])))

    def _take(self, words: IntArray) -> None:
        chunks = list(unpack(words))
        if chunks[0].seq == 0:
            self.probes += chunks
            return
        self.responses.append(chunks)
        for chunk in chunks:
            if chunk.finish:
                self.ended.add((chunk.slot, chunk.generation))

    def fail(self, error: ServingError) -> None:
        if self.broken:
            raise RuntimeError("the response sender is closed")
        self.error = error
        self.flags += 1

    def drop(self) -> None:
        self.flags += 1

    @property
    def dropped(self) -> bool:
        """It ended without a last word."""
        return bool(self.ends) and self.error is None and not self.finish

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for response in self.responses for chunk in response]

    @property
    def ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.ids]

    @property
    def finish(self) -> str:
        return FINISH_CODES[self.chunks[-1].finish] if self.chunks else ""


class FakeDetokenizer:
    """The detokenizer's side of the ack table and of a feed: a heartbeat, and acks when told or at once."""

    def __init__(self, ack_table: AckTable, run_dir: Path) -> None:
        self.ack_table = ack_table
        self.beating = True
        self._stopped = threading.Event()
        self._sinks: list[FakeSink] = []
        self._owners: dict[tuple[int, int], FakeSink] = {}
        self._feed = feed.FeedReader(run_dir, 0)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._run, self._read)]
        for thread in self._threads:
            thread.start()

    def ack(self, chunk: Chunk, sink: FakeSink | None = None) -> None:
        """The text of a chunk has been sent; its answer is open, unless the chunk ends it."""
        if chunk.seq == 0:
            self.ack_table.probe(chunk.slot, chunk.generation, chunk.completion_tokens)
            return
        if sink is not None and chunk.seq == 1 and not chunk.finish:
            self._owners[chunk.slot, chunk.generation] = sink
        if chunk.finish:
            self.ack_table.close_answer(chunk.slot, chunk.generation)
        else:
            self.ack_table.read_by(chunk.slot, chunk.generation, 0)
        self.ack_table.ack(chunk.slot, chunk.generation, chunk.seq)

    def follow(self, sink: FakeSink) -> FakeSink:
        """Acknowledge whatever this sink gets."""
        sink.followed = True
        self._sinks.append(sink)
        return sink

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._feed.close()

    def _run(self) -> None:
        next_beat, done = 0.0, {}
        while not self._stopped.wait(0.001):
            if self.beating and time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_SECONDS
                self.ack_table.beat(0)
            for sink in list(self._sinks):
                told = [c for response in sink.responses for c in response] + sink.probes
                acked = done.setdefault(sink, set())
                for chunk in told:
                    if chunk.slot >= 0 and (key := (chunk.seq, chunk.slot, chunk.completion_tokens)) not in acked:
                        acked.add(key)
                        self.ack(chunk, sink)

    def _read(self) -> None:
        while not self._stopped.is_set():
            if not self._feed.wait(0.01):
                continue
            for kind, words in self._feed.frames():
                sink = self._owners.get((int(words[0]), int(words[1])))
                if sink is not None:
                    sink.feed(kind, words)
                    if kind != feed.CHUNK:
                        self.ack_table.close_answer(int(words[0]), int(words[1]))
