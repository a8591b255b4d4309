"""One running request over gRPC, without the waiting: what the blocking and the asyncio stream have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from client import errors, kserve
from client.sequences import Order, retry_delay
from client.types import Options, Prompt, Retry, StreamChunk, Timeouts

Metadata = Sequence[tuple[str, str]]
STOP_SECONDS = 5.0  # bound on a stop request, which answers at once


class Channel(Protocol):
    """What a request needs of a connection."""

    target: str
    model: str

    def call(self, request: Any, timeout: float | None = None, metadata: Metadata = ()) -> Any: ...

    def stop(self, request_id: str) -> None: ...

    def error(self, error: grpc.RpcError) -> errors.ClientError: ...


class Deadline:
    """The first-token and between-chunk bounds of one attempt. A clock (timer or thread) calls ``check``.

    Per chunk this costs one assignment. It must not hold the stream: a dropped stream has to be collected at once.
    """

    __slots__ = ("_bound", "_expire", "_phase", "due", "expired", "over")

    def __init__(self, seconds: float | None, now: float, expire: Callable[[], object]) -> None:
        self._phase, self._bound, self._expire = "first token", seconds, expire
        self.due = self._at(now)
        self.expired: errors.RequestTimeout | None = None
        self.over = False  # the attempt has ended: nothing to watch

    def _at(self, now: float) -> float:
        return now + self._bound if self._bound is not None else float("inf")

    def chunk(self, now: float, bound: float | None) -> None:
        self._phase, self._bound = "between chunks", bound
        self.due = self._at(now)

    def check(self, now: float) -> bool:
        """True when the bound has passed; the request is then being stopped."""
        if now < self.due:
            return False
        self.expired = errors.RequestTimeout(self._phase, self._bound or 0.0)
        self._expire()
        return True


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt and how to ask for it."""

    prompt: Prompt
    options: Options
    stream: bool
    timeouts: Timeouts
    retry: Retry
    metadata: Metadata = ()


class RunningRequest:
    """Base of the two streams: start, end, stop, and what an error means."""

    _call: Any
    _deadline: Deadline | None

    def __init__(self, channel: Channel, new_id: Callable[[], str], ask: Ask) -> None:
        self._done, self._call, self._deadline = True, None, None  # what __del__ sees when the next lines raise
        self.request_id = new_id()
        self._channel, self._new_id, self._ask = channel, new_id, ask
        self._request = kserve.infer_request(
            self.request_id, ask.prompt, ask.options, stream=ask.stream, model=channel.model
        )
        self._order = Order(ask.options.n)
        self._attempt = 0
        self._done = False

    def _begin(self, now: float) -> Deadline:
        """Send the request. The caller watches the deadline."""
        self._attempt += 1
        channel, request_id = self._channel, self.request_id
        call = channel.call(self._request, self._ask.timeouts.total, self._ask.metadata)

        def expire() -> None:
            channel.stop(request_id)
            call.cancel()

        self._call = call
        first = self._ask.timeouts.first_token if self._ask.stream else None
        self._deadline = Deadline(first, now, expire)
        return self._deadline

    def _chunk(self, message: Any, now: float) -> StreamChunk | None:
        """The message's chunk, checked; ``None`` for Triton's empty final response."""
        got = kserve.output(message)
        if got is None:
            return None
        if self._deadline:
            self._deadline.chunk(now, self._ask.timeouts.between_chunks)
        try:
            return self._order.check(kserve.stream_chunk(got))
        except errors.StreamBroken:
            self._channel.stop(self.request_id)
            raise

    def _failure(self, error: grpc.RpcError) -> errors.ClientError:
        if self._deadline and self._deadline.expired:
            return self._deadline.expired
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._channel.stop(self.request_id)
            return errors.RequestTimeout("total", self._ask.timeouts.total or 0.0)
        return self._channel.error(error)

    def _again_in(self, error: errors.ClientError) -> float:
        """Seconds until the next attempt. Raises ``error`` when there must be none."""
        if self._done:  # ``cancel()`` came from another thread or task: the iteration simply ends
            return 0.0
        self._end()
        delay = retry_delay(error, self._attempt, self._ask.retry, self._order.started)
        if delay is None:
            self._done = True
            raise error
        self.request_id = self._request.id = self._new_id()  # the old id may still be known to the server
        return delay

    def _finish(self) -> None:
        """The server has closed the stream. Raises ``StreamCut`` when sequences are missing their end."""
        self._end()
        self._order.ended()
        self._done = True

    def _end(self) -> None:
        call, self._call = self._call, None
        if self._deadline:
            self._deadline.over = True
        if call is not None:
            call.cancel()

    def cancel(self) -> None:
        """Stop the request and free its slot in the engine; returns at once. The iteration then simply ends."""
        if not self._done and self._call is not None and not self._order.complete:
            self._channel.stop(self.request_id)
        self._done = True
        self._end()
