"""Admission: takes in requests and cancels them, in Triton's thread.

It writes to the registry, which has a lock, and calls the runtime. Everything else that happens to a request is the
dispatcher's work.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence

from contract import chunks
from contract.ack_table import AckTable
from contract.chunks import Job
from contract.errors import EngineUnavailable, InvalidRequest, ServingError, restarting
from contract.finish import FINISH_CODES
from contract.prompt_part import PromptPart
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, Runtime
from serving.streaming.registry import RequestRegistry
from serving.streaming.sequence import ActiveRequest, ActiveSequence, Sink
from serving.streaming.validation import fit, reseeded

log = logging.getLogger(__name__)

STOPPING = "engine: the server is stopping; try another one, or again soon"


class Admission:
    """``runtime`` is ``None`` until it has loaded; ``dead``: why nothing is taken in any more."""

    def __init__(
        self,
        registry: RequestRegistry,
        ack_table: AckTable,
        queue_limit: int,
        on_undone: Callable[[list[ActiveSequence]], None],
    ) -> None:
        """``on_undone`` is told of the sequences of a request that was half taken in: a first chunk of theirs may have
        left."""
        self._registry, self._ack_table, self._queue_limit = registry, ack_table, queue_limit
        self._on_undone = on_undone
        self.runtime: Runtime | None = None
        self.dead = ""

    def admit(self, request_id: str, ids: Sequence[int], job: Job, sink: Sink) -> None:
        """Take a request or raise the error that answers it. A request taken always ends through its sink."""
        if job.cancel:
            self._answer_cancel(request_id, job.stop_key, sink)
            return
        if self.runtime is None or self.dead:
            raise EngineUnavailable(restarting(self.dead or "it is still loading"))
        if self._ack_table.closing:
            raise EngineUnavailable(STOPPING)
        sampling = fit(job, ids, self.runtime)
        limit = self.runtime.limits.max_streams + self._queue_limit
        request = self._registry.open(request_id, len(ids), job, sink, limit)
        try:
            for sequence in request.sequences:
                self._submit(self.runtime, sequence, ids, sampling)
        except Exception as error:  # whatever went wrong, the slots must come back
            if self._undo(request):
                raise
            unexpected = not isinstance(error, ServingError)
            log.info("request %s: ended during admission (%s)", request.request_id, error, exc_info=unexpected)

    def abort(self, sequence: ActiveSequence) -> None:
        """Stop a sequence; the runtime reports its end. From any thread."""
        if not sequence.aborted and not self.dead and self.runtime is not None:
            sequence.aborted = True
            self.runtime.abort(sequence.id)

    def _submit(self, runtime: Runtime, sequence: ActiveSequence, ids: Sequence[int], sampling: Sampling) -> None:
        job, at = sequence.request.job, sequence.index
        if job.text.prompt_ids:
            sequence.prompt.append(PromptPart(ids))
        seeded, resumed = "seed" in job.explicit, job.text.resume_ids
        one = reseeded(sampling, at)
        runtime.submit(
            EngineRequest(sequence.id, ids, one, job.priority, job.lora_name, job.cache_salt, seeded, resumed, at)
        )
        if sequence.aborted:  # its client went away just before the runtime knew it
            runtime.abort(sequence.id)

    def _undo(self, request: ActiveRequest) -> bool:
        """Undo an admission that failed half-way. False: the request has ended, and its sink has been told."""
        forgotten = self._registry.forget(request)
        self._on_undone(request.sequences)
        for sequence in request.sequences:
            try:
                self.abort(sequence)
            except Exception:
                log.exception("request %s: a sequence could not be aborted", request.request_id)
        return forgotten

    def _answer_cancel(self, request_id: str, key: str, sink: Sink) -> None:
        if not request_id:
            raise InvalidRequest("stop", "true needs the Triton request id of the running request; this one has no id")
        self._cancel(request_id, key)
        sink.send(chunks.pack(-1, 0, 1, 0, 0, 0, 0, FINISH_CODES.index("cancelled"), []), final=True)

    def _cancel(self, request_id: str, key: str) -> None:
        """Abort all sequences of a running request. An unknown id is not an error: it may just have ended; a wrong
        ``key`` answers the same, so that it tells a stranger nothing."""
        request = self._registry.find(request_id)
        if request is None or not hmac.compare_digest(request.job.stop_key.encode(), key.encode()):
            return
        for sequence in list(request.sequences):
            self.abort(sequence)
