"""The tokenizer step: short prompts at once, long ones in a thread of their own, so that nobody waits for them."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from queue import PriorityQueue
from typing import Any

from contract.errors import InternalError, ServingError
from contract.seal import Seal
from serving.tokenizer.inputs import Tensors
from serving.tokenizer.parameters import refuse_parameters
from serving.tokenizer.prompt import PromptBuilder, size
from serving.triton import io as triton_io

log = logging.getLogger(__name__)

SHORT = 65_536  # bytes of a request's inputs that are worked on in Triton's own thread: a few milliseconds
NICENESS = 5  # of the thread for long prompts: streams and short prompts get the processor first


class TokenizerStep:
    """``execute`` returns at once; each request is answered by itself, whatever happens to the others."""

    def __init__(self, builder: PromptBuilder, seal: Seal) -> None:
        self._builder, self._seal = builder, seal
        self._turn = itertools.count()
        self._long: PriorityQueue[tuple[int, int, Any, Tensors]] = PriorityQueue()  # the shortest first
        threading.Thread(target=self._work, name="long-prompts", daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                refuse_parameters(triton_io.parameters(request))
                tensors = triton_io.inputs(request)
                bytes_ = size(tensors)
                if bytes_ > SHORT:
                    self._builder.check_size(tensors)
                    self._long.put((bytes_, next(self._turn), sender, tensors))
                    continue
                answer = self._answer(tensors)
            except ServingError as problem:
                answer = triton_io.failed(problem)
            except Exception:  # noqa: BLE001 - logged; it must not fail the batch
                answer = _unexpected()
            triton_io.send_only(sender, answer)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            _, _, sender, tensors = self._long.get()
            try:
                triton_io.send_only(sender, self._answer(tensors))
            except Exception:
                log.exception("an answer could not be sent")

    def _answer(self, tensors: Tensors) -> Any:
        try:
            (result,) = self._builder.encode([tensors])
            if isinstance(result, ServingError):
                return triton_io.failed(result)
            return triton_io.encoded(result.ids, result.job.to_json(), self._seal)
        except Exception:  # noqa: BLE001 - logged; it must not end the thread
            return _unexpected()


def _unexpected() -> Any:
    log.exception("a request could not be read")
    return triton_io.failed(InternalError("tokenizer: the request could not be read; see the server's log"))
