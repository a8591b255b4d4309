"""The dispatcher connects a runtime to Triton: it admits requests, and turns the runtime's deltas into responses.

It knows Triton only as a ``Sink``. Flow control, the feeds and the disconnect watch are modules of their own.

Threads:

- Triton's thread calls ``admit``. It writes only to the registry, which has a lock, and may call the runtime
  (``serving.streaming.admission``).
- The runtime's thread calls ``on_step`` and ``on_death``. Both only leave a message, set the wake event and return.
- The dispatcher's own thread runs ``run``. It alone changes sequences and requests after their admission (except
  ``aborted`` and, when an admission is undone, ``gone``), it alone owns ``FlowControl``, ``Feeds``, ``Clock``
  and ``DisconnectWatch``, and it alone calls a request's ``Sink`` once the request is admitted.

``deque`` appends, dictionary look-ups and writes of one attribute are atomic in CPython; nothing else is shared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from contract import chunks
from contract.ack_table import END, AckTable
from contract.chunks import IntArray, Job
from contract.errors import DeadlineExceeded, EngineUnavailable, ServingError, from_wire, restarting
from contract.finish import FINISH_CODES
from serving.detokenizer.text import TokenBytes
from serving.runtimes.base import Runtime, SequenceDelta
from serving.streaming.admission import STOPPING, Admission
from serving.streaming.clock import Clock
from serving.streaming.disconnect_watch import DEAD_BEAT_SECONDS, DisconnectWatch
from serving.streaming.feeds import Feeds
from serving.streaming.flow_control import FlowControl
from serving.streaming.registry import OnEnd, RequestRegistry
from serving.streaming.sequence import ActiveRequest, ActiveSequence, Sink

log = logging.getLogger(__name__)

POLL_SECONDS = 0.0003  # between two looks at the ack table while tokens wait for an acknowledgement
IDLE_SECONDS = 0.05  # longest sleep when nothing waits; a delta wakes the loop at once
HOUSEKEEPING_SECONDS = 0.1


class Dispatcher:
    """See the module for who calls what from which thread."""

    def __init__(
        self, ack_table: AckTable, run_dir: Path, token_bytes: TokenBytes, queue_limit: int, on_end: OnEnd | None = None
    ) -> None:
        """``run_dir`` holds the detokenizer's feeds; ``on_end`` is told of every sequence that has ended, by the
        dispatcher's thread."""
        self._ack_table = ack_table
        self._inbox: deque[list[SequenceDelta]] = deque()
        self._wake = threading.Event()
        self._undone: deque[ActiveSequence] = deque()  # of admissions that failed after their first chunk had left
        self._sent = 0
        self._stopping = False
        self.registry = RequestRegistry(ack_table.slots, token_bytes, on_end)
        self._admission = Admission(self.registry, ack_table, queue_limit, self._end_undone)
        self._clock = Clock(ack_table)
        self._flow = FlowControl(ack_table)
        self._feeds = Feeds(ack_table, self._clock, run_dir)
        self._watch = DisconnectWatch(ack_table, self._clock, self.registry)

    @property
    def chunks_sent(self) -> int:
        return self._sent

    # --- Triton's thread -------------------------------------------------------------------------------------------

    def attach(self, runtime: Runtime) -> None:
        self._admission.runtime = runtime

    def admit(self, request_id: str, ids: Sequence[int], job: Job, sink: Sink) -> None:
        """Take a request or raise the error that answers it. A request taken always ends through its sink."""
        self._admission.admit(request_id, ids, job, sink)

    # --- the runtime's thread --------------------------------------------------------------------------------------

    def on_step(self, deltas: list[SequenceDelta]) -> None:
        self._inbox.append(deltas)
        self._wake.set()

    def on_death(self, reason: str) -> None:
        self._admission.dead = reason
        self._wake.set()

    @property
    def dead(self) -> str:
        """Why no more requests can be served; empty while they can."""
        return self._admission.dead

    def _end_undone(self, sequences: list[ActiveSequence]) -> None:
        self._undone.extend(sequences)
        self._wake.set()

    # --- the dispatcher's thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until ``stop``. A sequence's error never ends the loop; an error of the loop itself fails them all."""
        try:
            self._loop()
        except Exception as error:
            log.exception("the dispatcher failed")
            self.on_death(f"its dispatcher failed ({error!r})")
            self._fail_all(restarting(self.dead))
            self._feeds.flush()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _loop(self) -> None:
        next_look = time.monotonic()
        while not self._stopping:
            self._wake.clear()
            self._turn()
            now = time.monotonic()
            if now >= next_look:
                next_look = now + HOUSEKEEPING_SECONDS
                self._housekeep(now)
            while prober := self._watch.next_probe(now):
                request = prober.request
                self._deliver(request, request.probe(prober, self._clock.now, now), False)
            if self.dead:
                self._fail_all(restarting(self.dead))
            if self._flow.waiting:
                time.sleep(POLL_SECONDS)
            else:
                self._wake.wait(IDLE_SECONDS)

    def _turn(self) -> None:
        while self._inbox:
            for delta in self._inbox.popleft():
                sequence = self.registry.sequences.get(delta.sequence_id)
                if sequence is not None:
                    self._absorb(sequence, delta)
        quick, slow = self._flow.due()
        for sequence in quick:
            self._send(sequence)
        while self._undone:
            self._end_answer(self._undone.popleft())
        self._feeds.flush()
        for sequence in slow:
            self._send(sequence)
            self._feeds.flush()

    def _housekeep(self, now: float) -> None:
        self._clock.look()
        self._ack_table.open_sequences = len(self.registry.sequences) + self._feeds.ending
        for request in self._watch.abandoned():
            self._leave(request)
        for request in self.registry.late(now):
            done = sum(sequence.completion_tokens for sequence in request.sequences)
            self._fail(request, DeadlineExceeded(request.job.timeout_us, done))
        if self._watch.is_detokenizer_silent(now):
            self._feeds.give_up()
            self.on_death(f"the detokenizer has not answered for {DEAD_BEAT_SECONDS:.0f} s")
        if self._ack_table.closing == END:
            self._fail_all(STOPPING)

    def _absorb(self, sequence: ActiveSequence, delta: SequenceDelta) -> None:
        """Add what the engine generated to what the sequence will send next."""
        if sequence.repetition is not None:
            delta = sequence.repetition.cut(delta)
            if sequence.repetition.found and not delta.finish_reason:
                self._admission.abort(sequence)
        sequence.count(delta)
        if delta.finish_reason == "error":
            refused = from_wire(delta.error)  # by name where the request is at fault
            error = refused or EngineUnavailable(f"engine: {delta.error or 'the request failed'}")
            self._fail(sequence.request, error)
            return
        sequence.add(delta)
        if sequence.request.job.stream:
            self._flow.add(sequence)
            return
        if sequence.text is not None:
            sequence.text.push(delta.token_ids)  # ignores what follows a stop string
            if sequence.text.stopped:
                self._admission.abort(sequence)
        if sequence.finish:
            self._finish_unstreamed(sequence)

    def _send(self, sequence: ActiveSequence) -> None:
        request = sequence.request
        if self._ack_table.stopped(sequence.slot, sequence.generation):
            self._admission.abort(sequence)
            sequence.discard()  # it lies beyond the stop string
            if not sequence.finish:
                return
        if not request.gone:
            sequence.sent_beat = self._clock.now
            last = bool(sequence.finish) and request.open == 1
            if sequence.is_open:
                if last:  # before its last text, so that this is the request's last response
                    self._end(request.sink.drop)
                self._sent += 1
                self._feeds.send(sequence, sequence.take())
            else:
                self._deliver(request, sequence.take(), last)
        if sequence.finish:
            self._close(sequence, FINISH_CODES[sequence.finish])

    def _finish_unstreamed(self, sequence: ActiveSequence) -> None:
        """Keep a finished sequence; the request's last one sends them all in one response."""
        request = sequence.request
        request.finished[sequence.index] = sequence.take()
        if request.open == 1 and not request.gone:
            self._deliver(request, chunks.join([request.finished[index] for index in sorted(request.finished)]), True)
        self._close(sequence, FINISH_CODES[sequence.finish])

    def _deliver(self, request: ActiveRequest, words: IntArray, last: bool) -> None:
        """Send a response through Triton. A sink that raises affects no other request."""
        self._sent += 1
        try:
            request.sink.send(words, last)
        except Exception:
            log.exception("request %s: a response could not be sent", request.request_id)
            self._leave(request)

    # --- endings: the dispatcher's thread too ----------------------------------------------------------------------

    def _close(self, sequence: ActiveSequence, reason: str) -> None:
        self._flow.discard(sequence)
        if sequence.request.gone:
            self._end_answer(sequence)
        if self.registry.close(sequence, reason) and sequence.request.gone:
            self._end(sequence.request.sink.drop)

    def _end_answer(self, sequence: ActiveSequence) -> None:
        if sequence.is_open:
            self._feeds.end(sequence)

    def _end(self, say: Callable[[], None]) -> None:
        """Call ``say``, which ends a request at its sink. A sink that raises affects no other request."""
        try:
            say()
        except Exception:
            log.exception("a request could not be ended")

    def _fail(self, request: ActiveRequest, error: ServingError) -> None:
        request.problem = str(error)
        for sequence in request.sequences:
            self._admission.abort(sequence)
        if not request.gone:
            self._tell(request, error)
        for sequence in request.sequences:
            self._close(sequence, "error")

    def _tell(self, request: ActiveRequest, error: ServingError) -> None:
        """End a request with an error: behind the text of an open answer, or through its sink.

        Everything else of it ends first: Triton 2.51 stops counting at an error and never lets go of the request."""
        answers = [s for s in request.sequences if s.is_open and s.id in self.registry.sequences]
        teller = next((s for s in answers if self._feeds.reaches(s)), None)
        others = [s for s in answers if s is not teller]
        for sequence in others:
            self._feeds.end(sequence)
        self._end(request.sink.drop if teller else lambda: request.sink.fail(error))
        if teller:
            self._feeds.end(teller, error, after=others)

    def _fail_all(self, line: str) -> None:
        for request in list(self.registry.requests.values()):
            self._fail(request, EngineUnavailable(line))

    def _leave(self, request: ActiveRequest) -> None:
        """Nobody listens: free the batch slots. The sequences close when the runtime reports their end."""
        request.gone = True
        for sequence in request.sequences:
            self._admission.abort(sequence)
