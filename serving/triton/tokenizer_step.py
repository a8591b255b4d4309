"""The tokenizer step: encodes short prompts at once and long ones in a thread, so that nobody waits for those."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from dataclasses import dataclass, field, replace
from queue import PriorityQueue
from typing import Any

from contract.chunks import Job
from contract.errors import DeadlineExceeded, InternalError, ServingError
from contract.seal import Seal
from serving import background
from serving.tokenizer.inputs import Tensors
from serving.tokenizer.parameters import refuse_parameters, timeout_us
from serving.tokenizer.prompt import PromptBuilder, size
from serving.tracing import HEADER, Tracer
from serving.triton import io as triton_io

log = logging.getLogger(__name__)

SHORT = 65_536  # bytes of a request's inputs that are worked on in Triton's own thread: a few milliseconds


@dataclass(frozen=True, slots=True)
class _Arrival:
    tensors: Tensors
    trace: str = ""  # the caller's ``traceparent``
    timeout_us: int = 0  # what the caller allows; 0: any time
    arrived: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        return self.arrived + self.timeout_us / 1e6 if self.timeout_us else 0.0


class TokenizerStep:
    """``execute`` returns at once; each request is answered by itself, whatever happens to the others."""

    def __init__(self, builder: PromptBuilder, seal: Seal, tracer: Tracer | None = None) -> None:
        self._builder, self._seal, self._tracer = builder, seal, tracer
        self._turn = itertools.count()
        self._long: PriorityQueue[tuple[int, int, Any, _Arrival]] = PriorityQueue()  # the shortest first
        threading.Thread(target=self._work, name="long-prompts", daemon=True).start()

    def close(self) -> None:
        if self._tracer:
            self._tracer.close()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                parameters = triton_io.parameters(request)
                refuse_parameters(parameters)
                allowed = timeout_us(triton_io.timeout(request), parameters)
                arrival = _Arrival(triton_io.inputs(request), str(parameters.get(HEADER, "")), allowed)
                bytes_ = size(arrival.tensors)
                if bytes_ > SHORT:
                    self._builder.check_size(arrival.tensors)
                    self._long.put((bytes_, next(self._turn), sender, arrival))
                    continue
                answer = self._answer(arrival)
            except ServingError as problem:
                answer = triton_io.failed(problem)
            except Exception:  # noqa: BLE001 - logged; it must not fail the batch
                answer = _unexpected()
            triton_io.send_only(sender, answer)

    def _work(self) -> None:
        background.give_way()
        while True:
            _, _, sender, arrival = self._long.get()
            try:
                triton_io.send_only(sender, self._answer(arrival))
            except Exception:
                log.exception("an answer could not be sent")

    def _answer(self, arrival: _Arrival) -> Any:
        try:
            if arrival.timeout_us and time.monotonic() >= arrival.deadline:
                raise DeadlineExceeded(arrival.timeout_us)
            result = self._builder.encode(arrival.tensors)
            job = self._traced(arrival, len(result.ids), result.job)
            if arrival.timeout_us:
                job = replace(job, timeout_us=arrival.timeout_us, deadline=arrival.deadline)
            return triton_io.encoded(result.ids, job.to_json(), self._seal)
        except ServingError as problem:
            self._record(arrival, 0, str(problem))
            return triton_io.failed(problem)
        except Exception:  # noqa: BLE001 - logged; it must not end the thread
            return _unexpected()

    def _traced(self, arrival: _Arrival, tokens: int, job: Job) -> Job:
        """The job with the parent of the engine's spans: the caller's span, or this step's where there is none."""
        if not self._tracer or job.cancel:
            return job
        own = self._record(arrival, tokens)
        continued = own.split("-")[1] in arrival.trace  # false where the caller sent no valid traceparent
        return replace(job, trace=arrival.trace if continued else own)

    def _record(self, arrival: _Arrival, tokens: int, error: str = "") -> str:
        if not self._tracer:
            return ""
        used = {"gen_ai.usage.input_tokens": tokens}
        return self._tracer.record("tokenize", arrival.trace, arrival.arrived, time.monotonic(), used, error)


def _unexpected() -> Any:
    log.exception("a request could not be read")
    return triton_io.failed(InternalError("tokenizer: the request could not be read; see the server's log"))
