"""Streams between a runtime and Triton: admission, ack-clocked chunks, cancellation. Pure: Triton is a ``Sink``.

A sequence's next chunk leaves only when the detokenizer has acknowledged the last one in the ack table; whatever the
engine makes meanwhile goes into that chunk. So an idle system streams token by token, and a busy one sends fewer,
larger chunks by itself. Few chunks are under way at a time, so a new sequence's first token never queues behind the
hundreds of others. A chunk that stays unacknowledged while the detokenizer lives means that the client is gone: an
ensemble stops scheduling later steps then, but never tells a running one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from contract.ack_table import END, AckTable
from contract.chunks import Chunk, Job
from contract.errors import EngineDead, InvalidRequest, ServingError
from contract.finish import FINISH_CODES
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import EngineRequest, Runtime, SequenceDelta
from serving.streaming.admission import fit, reseeded
from serving.streaming.registry import RequestRegistry
from serving.streaming.senders import Senders
from serving.streaming.sequence import ActiveRequest, ActiveSequence, Sink

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
    """Owns every sequence. ``admit`` is called by Triton's thread, ``on_step`` by the runtime's, ``run`` is a third."""

    def __init__(self, ack_table: AckTable, token_bytes: Callable[[], TokenBytes], queue_limit: int) -> None:
        self._ack_table = ack_table
        self.registry = RequestRegistry(ack_table.slots, token_bytes)
        self._queue_limit = queue_limit
        self._runtime: Runtime | None = None
        self._inbox: deque[list[SequenceDelta]] = deque()
        self._wake = threading.Event()
        self._senders = Senders(self._wake.set)
        self._waiting: dict[int, ActiveSequence] = {}  # have something to send, in order of arrival
        self._in_flight: dict[int, ActiveSequence] = {}  # have a chunk under way
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
        if self._ack_table.closing:
            raise EngineDead(STOPPING)
        sampling = fit(job, ids, runtime)
        limit = runtime.limits.max_streams + self._queue_limit
        request = self.registry.open(request_id, len(ids), job, sink, limit)
        try:
            for sequence in request.sequences:
                one = reseeded(sampling, sequence.index)
                seeded = "seed" in job.explicit
                runtime.submit(EngineRequest(sequence.id, ids, one, job.priority, job.lora_name, seeded))
                if sequence.aborted:  # its client went away just before the runtime knew it
                    runtime.abort(sequence.id)
        except ServingError:
            if self._forget(request):
                raise

    def _forget(self, request: ActiveRequest) -> bool:
        """Undo an admission that the runtime refused half-way. False: the sender has answered the request already."""
        for sequence in request.sequences:
            self._abort(sequence)
        return self.registry.forget(request)

    def _answer_cancel(self, request_id: str, sink: Sink) -> None:
        if not request_id:
            raise InvalidRequest("stop", "true needs the Triton request id of the running request; this one has no id")
        self.cancel(request_id)
        cancelled = FINISH_CODES.index("cancelled")
        sink.send([Chunk(-1, 0, 1, 0, 0, 0, 0, cancelled, [])], final=True)

    def cancel(self, request_id: str) -> None:
        """Abort all sequences of a running request; an unknown id is not an error: it may just have ended."""
        request = self.registry.find(request_id)
        for sequence in list(request.sequences) if request else ():
            self._abort(sequence)

    # --- the runtime's side ----------------------------------------------------------------------------------------

    def on_step(self, deltas: list[SequenceDelta]) -> None:
        self._inbox.append(deltas)
        self._wake.set()

    def on_death(self, reason: str) -> None:
        self._dead = reason
        self._wake.set()

    @property
    def dead(self) -> str:
        return self._dead

    def _abort(self, sequence: ActiveSequence) -> None:
        if not sequence.aborted and not self._dead and self._runtime is not None:
            sequence.aborted = True
            self._runtime.abort(sequence.id)

    # --- the sender thread -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until ``stop``. No error of one sequence may end the loop; one of the loop's own fails them all."""
        try:
            self._loop()
        except Exception as error:
            log.exception("the sender failed")
            self.on_death(f"its sender failed ({error!r})")
            self._fail_all(f"engine: {self._dead}; the server restarts it, try again soon")
        finally:
            self._senders.close()

    def _loop(self) -> None:
        next_look = time.monotonic()
        while not self._stopping:
            self._wake.clear()
            self._turn()
            now = time.monotonic()
            if now >= next_look:
                next_look = now + HOUSEKEEPING_SECONDS
                self._ack_table.open_sequences = len(self.registry.sequences) + self._senders.pending
                self._housekeep(now)
                if self._ack_table.closing == END:
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
        while self._senders.failed:
            request, final = self._senders.failed.popleft()
            self._leave(request)
            if final:  # its sequences are closed already; only the sink still waits for an end
                self._tell(request, request.sink.drop)
        while self._inbox:
            for delta in self._inbox.popleft():
                sequence = self.registry.sequences.get(delta.sequence_id)
                if sequence is not None:
                    self._absorb(sequence, delta)
        if not self._waiting:
            return
        oldest = time.monotonic() - STALE_SECONDS
        self._in_flight = {s.id: s for s in self._in_flight.values() if s.sent_at > oldest and not self._is_acked(s)}
        due = [s for s in self._waiting.values() if s.request.gone or self._is_acked(s)]
        due.sort(key=ActiveSequence.has_begun)
        for at, sequence in enumerate(due, 1):
            if len(self._in_flight) >= WINDOW:
                break
            self._waiting.pop(sequence.id, None)
            self._send(sequence, more=at < len(due))

    def _is_acked(self, sequence: ActiveSequence) -> bool:
        return sequence.seq == 0 or self._ack_table.acked(sequence.slot, sequence.generation, sequence.seq)

    def _absorb(self, sequence: ActiveSequence, delta: SequenceDelta) -> None:
        sequence.completion_tokens += delta.counted
        sequence.cached_tokens = max(sequence.cached_tokens, delta.cached_tokens)
        if delta.finish_reason == "error":
            self._fail(sequence.request, ServingError(f"engine: {delta.error or 'the request failed'}"))
            return
        sequence.ids += delta.token_ids
        if sequence.request.job.text.log_probs:
            sequence.log_probs += delta.logprobs
            sequence.top_logprobs += delta.top_logprobs
        if delta.finish_reason:
            sequence.finish = FINISH_CODES.index(delta.finish_reason)
        if sequence.request.job.stream:
            self._waiting[sequence.id] = sequence
            return
        if sequence.text is not None:
            sequence.text.push(delta.token_ids)  # ignores what follows a stop string
            if sequence.text.stopped:
                self._abort(sequence)
        if sequence.finish:
            self._finish_at_once(sequence)

    def _send(self, sequence: ActiveSequence, more: bool) -> None:
        request = sequence.request
        if self._ack_table.stopped(sequence.slot, sequence.generation):
            self._abort(sequence)
            sequence.ids.clear()  # beyond the stop string
            sequence.log_probs.clear()
            sequence.top_logprobs.clear()
            if not sequence.finish:
                return
        if request.gone:
            if sequence.finish:
                self._close(sequence, FINISH_CODES[sequence.finish])
            return
        sequence.sent_beat, sequence.sent_at = self._ack_table.beats, time.monotonic()
        self._in_flight[sequence.id] = sequence
        last = bool(sequence.finish) and request.open == 1
        self._respond(request, [sequence.take()], last, more)
        if sequence.finish:
            self._close(sequence, FINISH_CODES[sequence.finish])

    def _finish_at_once(self, sequence: ActiveSequence) -> None:
        request = sequence.request
        request.ready.append(sequence.take())
        if request.open == 1 and not request.gone:
            request.ready.sort(key=lambda chunk: chunk.sequence_index)
            self._respond(request, request.ready, final=True)
        self._close(sequence, FINISH_CODES[sequence.finish])

    def _respond(self, request: ActiveRequest, chunks: list[Chunk], final: bool, more: bool = False) -> None:
        self.chunks_sent += 1
        self._senders.send(request, chunks, final, more=more)

    def _tell(self, request: ActiveRequest, say: Callable[[], None]) -> None:
        """Last words to a sink; one that cannot take them concerns nobody else."""
        self._senders.settle(request)
        try:
            say()
        except Exception:
            log.exception("request %s: it could not be ended", request.request_id)

    def _close(self, sequence: ActiveSequence, reason: str) -> None:
        self._waiting.pop(sequence.id, None)
        if self.registry.close(sequence, reason) and sequence.request.gone:
            self._tell(sequence.request, sequence.request.sink.drop)

    def _fail(self, request: ActiveRequest, error: ServingError) -> None:
        for sequence in request.sequences:
            self._abort(sequence)
        if not request.gone:
            self._tell(request, lambda: request.sink.fail(error))
        for sequence in request.sequences:
            self._close(sequence, "error")

    def _fail_all(self, line: str) -> None:
        for request in list(self.registry.requests.values()):
            self._fail(request, EngineDead(line))

    def _leave(self, request: ActiveRequest) -> None:
        """Nobody listens: free the batch slots. The sequences close when the runtime says that they ended."""
        request.gone = True
        for sequence in request.sequences:
            self._abort(sequence)

    # --- housekeeping ----------------------------------------------------------------------------------------------

    def _housekeep(self, now: float) -> None:
        beats = self._ack_table.beats
        if beats != self._last_beat[0]:
            self._last_beat = (beats, now)
        unacked = 0
        for sequence in list(self.registry.sequences.values()):
            if self._is_acked(sequence) or not sequence.request.job.stream:
                continue
            unacked += 1
            if beats - sequence.sent_beat > GONE_BEATS and not sequence.request.gone:
                log.info(
                    "request %s: no ack for chunk %d, the client is gone", sequence.request.request_id, sequence.seq
                )
                self._leave(sequence.request)
        if unacked and now - self._last_beat[1] > DEAD_BEAT_SECONDS:
            self.on_death(f"the detokenizer has not answered for {DEAD_BEAT_SECONDS:.0f} s")
        self._ask_sinks()

    def _ask_sinks(self) -> None:
        for request in self.registry.next_requests(CANCEL_CHECKS):
            if not request.gone and self._is_cancelled(request):
                self._leave(request)

    def _is_cancelled(self, request: ActiveRequest) -> bool:
        try:
            return request.sink.cancelled()
        except Exception:
            log.exception("request %s: its client cannot be asked about", request.request_id)
            return True
