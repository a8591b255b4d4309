"""Streams between a runtime and Triton: admission, ack-clocked chunks, cancellation. Pure: Triton is a ``Sink``.

A stream's next chunk leaves only when the detokenizer has acknowledged the last one on the board; whatever the engine
makes meanwhile goes into that chunk. So an idle system streams token by token, and a busy one sends fewer, larger
chunks by itself. Few chunks are under way at a time, so a new stream's first token never queues behind the others'
hundreds. A chunk that stays unacknowledged while the detokenizer lives means that the client is gone: an
ensemble stops scheduling later steps then, but never tells a running one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from contract.ack_table import END, Board
from contract.chunks import Chunk, Job
from contract.errors import EngineDead, InvalidRequest, ServingError
from contract.finish import FINISH_CODES
from contract.sampling import EngineRequest, StreamDelta
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import Runtime
from serving.streaming.admission import fit, reseeded
from serving.streaming.registry import Ledger
from serving.streaming.senders import Outbox
from serving.streaming.sequence import Group, Sink, Stream

log = logging.getLogger(__name__)

STOPPING = "engine: the server is stopping; try another one, or again soon"
POLL_SECONDS = 0.0003  # how often acks are looked for while tokens wait for one
WINDOW = 64  # chunks under way at a time: enough to keep every step of the ensemble busy
STALE_SECONDS = 0.2  # a chunk unacked for longer no longer counts: its client may be gone
IDLE_SECONDS = 0.05  # upper bound of a sleep when nothing waits; a delta wakes the loop at once
HOUSEKEEPING_SECONDS = 0.1
BEAT_SECONDS = 0.05  # the detokenizer's heartbeat
GONE_BEATS = 24  # 1.2 s of the detokenizer's own time without an ack: the client is gone
DEAD_BEAT_SECONDS = 30.0  # no heartbeat at all: the detokenizer is gone
CANCEL_CHECKS = 4  # sinks asked per housekeeping turn; each question is a round trip to Triton


class Dispatcher:
    """Owns every stream. ``admit`` is called by Triton's thread, ``on_step`` by the runtime's, ``run`` is a third."""

    def __init__(self, board: Board, token_bytes: Callable[[], TokenBytes], queue_limit: int) -> None:
        self._board = board
        self.ledger = Ledger(board.slots, token_bytes)
        self._queue_limit = queue_limit
        self._runtime: Runtime | None = None
        self._inbox: deque[list[StreamDelta]] = deque()
        self._wake = threading.Event()
        self._outbox = Outbox(self._wake.set)
        self._waiting: dict[int, Stream] = {}  # have something to send, in order of arrival
        self._flying: dict[int, Stream] = {}  # have a chunk under way
        self._dead = ""
        self._stopping = False
        self._last_beat = (0, time.monotonic())
        self.chunks_sent = 0

    # --- admission -------------------------------------------------------------------------------------------------

    def attach(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def runtime(self) -> Runtime:
        if self._runtime is None or self._dead:
            raise EngineDead(f"engine: {self._dead or 'it is still loading'}; the server restarts it, try again soon")
        return self._runtime

    def admit(self, request_id: str, ids: Sequence[int], job: Job, sink: Sink) -> None:
        """Take a request or raise the error that answers it. A taken one always ends through its sink."""
        if job.cancel:
            self._answer_cancel(request_id, sink)
            return
        runtime = self.runtime
        if self._board.closing:
            raise EngineDead(STOPPING)
        sampling = fit(job, ids, runtime)
        limit = runtime.limits.max_streams + self._queue_limit
        group = self.ledger.open(request_id, len(ids), job, sink, limit)
        try:
            for stream in group.streams:
                one = reseeded(sampling, stream.index)
                seeded = "seed" in job.explicit
                runtime.submit(EngineRequest(stream.id, ids, one, job.priority, job.lora_name, seeded))
                if stream.aborted:  # its client went away just before the runtime knew it
                    runtime.abort(stream.id)
        except ServingError:
            if self._forget(group):
                raise

    def _forget(self, group: Group) -> bool:
        """Undo an admission that the runtime refused half-way. False: the sender has answered the request already."""
        for stream in group.streams:
            self._abort(stream)
        return self.ledger.forget(group)

    def _answer_cancel(self, request_id: str, sink: Sink) -> None:
        if not request_id:
            raise InvalidRequest("stop", "true needs the Triton request id of the running request; this one has no id")
        self.cancel(request_id)
        cancelled = FINISH_CODES.index("cancelled")
        sink.send([Chunk(-1, 0, 1, 0, 0, 0, 0, cancelled, [])], final=True)

    def cancel(self, request_id: str) -> None:
        """Abort all sequences of a running request; an unknown id is not an error: it may just have ended."""
        group = self.ledger.find(request_id)
        for stream in list(group.streams) if group else ():
            self._abort(stream)

    # --- the runtime's side ----------------------------------------------------------------------------------------

    def on_step(self, deltas: list[StreamDelta]) -> None:
        self._inbox.append(deltas)
        self._wake.set()

    def on_death(self, reason: str) -> None:
        self._dead = reason
        self._wake.set()

    @property
    def dead(self) -> str:
        return self._dead

    def _abort(self, stream: Stream) -> None:
        if not stream.aborted and not self._dead and self._runtime is not None:
            stream.aborted = True
            self._runtime.abort(stream.id)

    # --- the sender thread -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until ``stop``. No error of one stream may end the loop; one of the loop's own fails them all."""
        try:
            self._loop()
        except Exception as error:
            log.exception("the sender failed")
            self.on_death(f"its sender failed ({error!r})")
            self._fail_all(f"engine: {self._dead}; the server restarts it, try again soon")
        finally:
            self._outbox.close()

    def _loop(self) -> None:
        next_look = time.monotonic()
        while not self._stopping:
            self._wake.clear()
            self._turn()
            now = time.monotonic()
            if now >= next_look:
                next_look = now + HOUSEKEEPING_SECONDS
                self._board.streams = len(self.ledger.streams) + self._outbox.pending
                self._housekeep(now)
                if self._board.closing == END:
                    self._fail_all(STOPPING)
            if self._dead:
                self._fail_all(f"engine: {self._dead}; the server restarts it, try again soon")
            if self._waiting:
                time.sleep(POLL_SECONDS)
            else:
                self._wake.wait(IDLE_SECONDS)

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _turn(self) -> None:
        while self._outbox.failed:
            group, final = self._outbox.failed.popleft()
            self._leave(group)
            if final:  # its streams are closed already; only the sink still waits for an end
                self._tell(group, group.sink.drop)
        while self._inbox:
            for delta in self._inbox.popleft():
                stream = self.ledger.streams.get(delta.stream_id)
                if stream is not None:
                    self._absorb(stream, delta)
        if not self._waiting:
            return
        oldest = time.monotonic() - STALE_SECONDS
        self._flying = {s.id: s for s in self._flying.values() if s.sent_at > oldest and not self._is_acked(s)}
        due = [s for s in self._waiting.values() if s.group.gone or self._is_acked(s)]
        due.sort(key=Stream.has_begun)
        for at, stream in enumerate(due, 1):
            if len(self._flying) >= WINDOW:
                break
            self._waiting.pop(stream.id, None)
            self._send(stream, more=at < len(due))

    def _is_acked(self, stream: Stream) -> bool:
        return stream.seq == 0 or self._board.acked(stream.slot, stream.generation, stream.seq)

    def _absorb(self, stream: Stream, delta: StreamDelta) -> None:
        stream.completion_tokens += delta.counted
        stream.cached_tokens = max(stream.cached_tokens, delta.cached_tokens)
        if delta.finish_reason == "error":
            self._fail(stream.group, ServingError(f"engine: {delta.error or 'the request failed'}"))
            return
        stream.ids += delta.token_ids
        if stream.group.job.text.log_probs:
            stream.log_probs += delta.logprobs
            stream.top_logprobs += delta.top_logprobs
        if delta.finish_reason:
            stream.finish = FINISH_CODES.index(delta.finish_reason)
        if stream.group.job.stream:
            self._waiting[stream.id] = stream
            return
        if stream.text is not None:
            stream.text.push(delta.token_ids)  # ignores what follows a stop string
            if stream.text.stopped:
                self._abort(stream)
        if stream.finish:
            self._finish_at_once(stream)

    def _send(self, stream: Stream, more: bool) -> None:
        group = stream.group
        if self._board.stopped(stream.slot, stream.generation):
            self._abort(stream)
            stream.ids.clear()  # beyond the stop string
            stream.log_probs.clear()
            stream.top_logprobs.clear()
            if not stream.finish:
                return
        if group.gone:
            if stream.finish:
                self._close(stream, FINISH_CODES[stream.finish])
            return
        stream.sent_beat, stream.sent_at = self._board.beats, time.monotonic()
        self._flying[stream.id] = stream
        last = bool(stream.finish) and group.open == 1
        self._respond(group, [stream.take()], last, more)
        if stream.finish:
            self._close(stream, FINISH_CODES[stream.finish])

    def _finish_at_once(self, stream: Stream) -> None:
        group = stream.group
        group.ready.append(stream.take())
        if group.open == 1 and not group.gone:
            group.ready.sort(key=lambda chunk: chunk.sequence_index)
            self._respond(group, group.ready, final=True)
        self._close(stream, FINISH_CODES[stream.finish])

    def _respond(self, group: Group, chunks: list[Chunk], final: bool, more: bool = False) -> None:
        self.chunks_sent += 1
        self._outbox.send(group, chunks, final, more=more)

    def _tell(self, group: Group, say: Callable[[], None]) -> None:
        """Last words to a sink; one that cannot take them concerns nobody else."""
        self._outbox.settle(group)
        try:
            say()
        except Exception:
            log.exception("request %s: it could not be ended", group.request_id)

    def _close(self, stream: Stream, reason: str) -> None:
        self._waiting.pop(stream.id, None)
        if self.ledger.close(stream, reason) and stream.group.gone:
            self._tell(stream.group, stream.group.sink.drop)

    def _fail(self, group: Group, error: ServingError) -> None:
        for stream in group.streams:
            self._abort(stream)
        if not group.gone:
            self._tell(group, lambda: group.sink.fail(error))
        for stream in group.streams:
            self._close(stream, "error")

    def _fail_all(self, line: str) -> None:
        for group in list(self.ledger.groups.values()):
            self._fail(group, EngineDead(line))

    def _leave(self, group: Group) -> None:
        """Nobody listens: free the batch slots. The streams close when the runtime says that they ended."""
        group.gone = True
        for stream in group.streams:
            self._abort(stream)

    # --- housekeeping ----------------------------------------------------------------------------------------------

    def _housekeep(self, now: float) -> None:
        beats = self._board.beats
        if beats != self._last_beat[0]:
            self._last_beat = (beats, now)
        unacked = 0
        for stream in list(self.ledger.streams.values()):
            if self._is_acked(stream) or not stream.group.job.stream:
                continue
            unacked += 1
            if beats - stream.sent_beat > GONE_BEATS and not stream.group.gone:
                log.info("request %s: no ack for chunk %d, the client is gone", stream.group.request_id, stream.seq)
                self._leave(stream.group)
        if unacked and now - self._last_beat[1] > DEAD_BEAT_SECONDS:
            self.on_death(f"the detokenizer has not answered for {DEAD_BEAT_SECONDS:.0f} s")
        self._ask_sinks()

    def _ask_sinks(self) -> None:
        for group in self.ledger.next_groups(CANCEL_CHECKS):
            if not group.gone and self._is_cancelled(group):
                self._leave(group)

    def _is_cancelled(self, group: Group) -> bool:
        try:
            return group.sink.cancelled()
        except Exception:
            log.exception("request %s: its client cannot be asked about", group.request_id)
            return True
