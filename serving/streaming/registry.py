"""Registry of the requests, sequences and slots in use, called by Triton's thread and the dispatcher's."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

from contract.ack_table import MAX_GENERATION
from contract.chunks import Job
from contract.errors import DuplicateId, Overloaded
from contract.finish import FINISH_CODES
from serving.detokenizer.text import TextStream, TokenBytes
from serving.streaming.repetition import RepetitionDetector
from serving.streaming.sequence import ActiveRequest, ActiveSequence, Sink

DISCONNECTED = "disconnected"
OnEnd = Callable[[ActiveSequence, str], None]  # a sequence, and how it ended


class RequestRegistry:
    """A sequence owns its slot from ``open`` to ``close``. Free slots form a queue: the last one used is reused last.

    One lock guards every method; ``on_end`` is called outside it."""

    def __init__(self, slots: int, token_bytes: TokenBytes, on_end: OnEnd | None = None) -> None:
        self._token_bytes, self._on_end = token_bytes, on_end
        self._ids = itertools.count(1)
        self._unnamed = itertools.count()
        self._lock = threading.Lock()
        self.slots = deque(range(slots))
        self.sequences: dict[int, ActiveSequence] = {}
        self.requests: dict[str, ActiveRequest] = {}
        self.finished = dict.fromkeys((*filter(None, FINISH_CODES), DISCONNECTED), 0)  # sequences by reason

    def open(self, request_id: str, prompt_tokens: int, job: Job, sink: Sink, limit: int) -> ActiveRequest:
        """Raises ``DuplicateId`` for a running id, ``Overloaded`` when more than ``limit`` sequences would be open."""
        with self._lock:
            if request_id and request_id in self.requests:
                raise DuplicateId(request_id)
            if len(self.sequences) + job.n > limit or len(self.slots) < job.n:
                raise Overloaded(f"queue: full ({len(self.sequences)} of {limit} sequences); try again later")
            request = ActiveRequest(request_id or f"\0{next(self._unnamed)}", sink, job, open=job.n)
            self.requests[request.request_id] = request
            for index in range(job.n):
                self._add(request, index, prompt_tokens)
        return request

    def _add(self, request: ActiveRequest, index: int, prompt_tokens: int) -> None:
        number = next(self._ids)
        generation = number % MAX_GENERATION + 1
        sequence = ActiveSequence(number, request, index, self.slots.popleft(), generation, prompt_tokens)
        text = request.job.text
        sequence.completion_tokens = len(text.resume_ids)
        if text.stops and not request.job.stream:
            sequence.text = TextStream(self._token_bytes, text.stops, text.include_stop, text.min_tokens)
            sequence.text.push(text.resume_ids)
        if request.job.repetition:
            sequence.repetition = RepetitionDetector(*request.job.repetition, min_tokens=text.min_tokens)
            sequence.repetition.replay(text.resume_ids)
        request.sequences.append(sequence)
        self.sequences[number] = sequence

    def forget(self, request: ActiveRequest) -> bool:
        """Take back an admission. False: the request has ended meanwhile, and its sink has been told."""
        with self._lock:
            request.gone = True  # what the dispatcher's thread still holds of it is not sent
            for sequence in request.sequences:
                if self.sequences.pop(sequence.id, None):
                    self.slots.append(sequence.slot)
            return self.requests.pop(request.request_id, None) is not None

    def close(self, sequence: ActiveSequence, reason: str) -> bool:
        """End a sequence. True when it was its request's last one."""
        request = sequence.request
        with self._lock:
            if self.sequences.pop(sequence.id, None) is None:
                return False
            self.slots.append(sequence.slot)
            request.open -= 1
            if request.prober is sequence:
                request.prober = None
            if not request.open:
                self.requests.pop(request.request_id, None)
            reason = DISCONNECTED if request.gone else reason
            self.finished[reason] += 1
        if self._on_end:
            self._on_end(sequence, reason)
        return not request.open

    def has_unfinished(self) -> bool:
        """Whether the engine owes any sequence more tokens or its end."""
        with self._lock:
            return any(not sequence.finish for sequence in self.sequences.values())

    def find(self, request_id: str) -> ActiveRequest | None:
        with self._lock:
            return self.requests.get(request_id)

    def late(self, now: float) -> list[ActiveRequest]:
        """Requests whose deadline has passed."""
        with self._lock:
            return [r for r in self.requests.values() if 0 < r.job.deadline <= now and not r.gone]

    def next_requests(self, count: int) -> list[ActiveRequest]:
        """The ``count`` requests that have gone unchecked for longest."""
        with self._lock:
            chosen = list(itertools.islice(self.requests.values(), count))
            for request in chosen:
                self.requests[request.request_id] = self.requests.pop(request.request_id)
        return chosen
