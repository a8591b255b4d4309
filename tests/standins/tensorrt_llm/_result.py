"""RequestOutput and CompletionOutput as the reference describes them."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Literal, Optional

from . import control
from ._surface import declare
from .executor.utils import RequestError


class CompletionOutput:
    finish_reason: Optional[Literal["stop", "length", "timeout", "cancelled", "not_finished"]]  # noqa: UP045

    def __init__(self):
        self.index, self.text, self.token_ids = 0, "", []
        self.logprobs, self.finish_reason, self.stop_reason = [], None, None
        self._last = 0

    @property
    def length(self):
        return len(self.token_ids)

    @property
    def token_ids_diff(self):
        return self.token_ids[self._last :]


class RequestOutput:
    """One mutable object; it advances exactly when an item is taken."""

    def __init__(self, request_id, prompt, executor):
        self.request_id, self.prompt_token_ids = request_id, prompt
        self.outputs, self.finished, self.cached_tokens = [CompletionOutput()], False, 0
        self._executor, self._failed, self._aborted = executor, False, False
        try:
            self._loop = asyncio.get_running_loop()
            self._queue = asyncio.Queue()
        except RuntimeError:
            self._loop = self._queue = None

    def _put(self, item):
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def abort(self):
        self._aborted = True
        self._executor.cancel(self.request_id)

    def aborted(self):
        return self._aborted

    def __aiter__(self):
        return self

    async def __anext__(self):
        assert self._queue is not None, "must be called in a thread with a running event loop"
        if self.finished:
            raise StopAsyncIteration
        if self._failed:
            await asyncio.Event().wait()  # the real one is never marked done: it waits for ever
        item = await self._queue.get()
        if isinstance(item, Exception):
            self._failed = True
            raise item
        output = self.outputs[0]
        output._last = len(output.token_ids)
        output.token_ids.extend(item["tokens"])
        output.logprobs.extend(item["logprobs"])
        if item["trim"]:
            del output.token_ids[-item["trim"] :]
        output.finish_reason, output.stop_reason = item["reason"], item["stop_reason"]
        self.finished = item["reason"] is not None
        return self


def logprobs_of(token, count):
    """``{token: Logprob}``: the chosen one and ``count`` others."""
    ranked = [token, *(token + 1 + k for k in range(count - 1))] if count else []
    return {t: SimpleNamespace(logprob=-0.1 - k, rank=k + 1) for k, t in enumerate(ranked)}


def failure(message):
    return RequestError(message)


def fatal(message):
    control.healthy = False
    return RuntimeError(message)


declare(CompletionOutput, "CompletionOutput")
declare(RequestOutput, "RequestOutput")
