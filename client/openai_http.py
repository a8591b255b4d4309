"""The blocking OpenAI/SSE transport: the same streams as over gRPC, through the gateway or any server that speaks
OpenAI's API.

Closing the connection is how the gateway learns that nobody listens any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator

import httpx
import orjson

from client import _openai, errors, http_sockets
from client.channels import CUT_SHORT
from client.http_target import HttpTarget, refused
from client.one_reader import OneReader
from client.option_names import in_options
from client.patience import KnownServer, Patience
from client.request import LOOK_SECONDS, Ask
from client.sequences import Order, retry_delay
from client.sse import Events
from client.types import Bounds, StreamChunk


class Reading:
    """The pure half of both streams: bytes in, checked chunks out, bounds kept."""

    def __init__(self, ask: Ask, bounds: Bounds) -> None:
        self.order, self.ask, self.bounds = Order(ask.options.n), ask, bounds
        self.ready: list[StreamChunk] = []
        self._events, self._answer = Events(), _openai.AnswerDecoder(ask.options.top_logprobs)
        self._last = time.monotonic()

    def feed(self, data: bytes) -> None:
        for event in self._events.feed(data):
            self.ready += [self.order.check(chunk) for chunk in self._answer.event(event)]
        now, limits = time.monotonic(), self.ask.timeouts
        if self.ready:
            self._last = now
        elif not self._answer.finished:  # keep-alive comments hold the connection, not the bound
            bound, phase = (
                (limits.between_chunks, "between chunks") if self.order.started else (limits.first_token, "first token")
            )
            if bound is not None and now - self._last > bound:
                raise errors.RequestTimeout(phase, bound)
        if self.bounds.left() == 0.0:
            raise errors.RequestTimeout("total", limits.total or 0.0)

    def answered(self, request: httpx.Request) -> None:
        """Headers are here: from now on the read timeout is the one between chunks (httpcore reads it per body)."""
        if self.ask.stream:
            request.extensions["timeout"]["read"] = self.ask.timeouts.between_chunks

    def whole(self, data: bytes) -> None:
        self.ready.append(self.order.check(_openai.whole(orjson.loads(data), self.ask.options.top_logprobs)))


class HttpAttempts:
    """The attempts at one request, except for the waiting. All of them share the bounds."""

    def __init__(self, ask: Ask, server: KnownServer) -> None:
        self._ask, self._server, self._made = ask, server, 0
        self._bounds, self._patience = Bounds(ask.timeouts), Patience(ask.retry)
        self._bounds.start()

    def begin(self) -> Reading:
        self._made += 1
        return Reading(self._ask, self._bounds)

    def again_in(self, error: errors.ClientError, reading: Reading) -> float | None:
        """Seconds until the next attempt; ``None`` when there must be none, and the reader is told ``error``."""
        ask, patience = self._ask, self._patience.left(self._server)
        delay = retry_delay(error, self._made, ask.retry, reading.order.started, patience)
        if delay is not None and self._bounds.allow(delay):
            return delay
        scores = "top_logprobs" if ask.options.top_logprobs else "logprobs"  # a completion has one field for both
        in_options(error, ask.options.guide_type, scores)
        return None


class HttpStream(Iterator[StreamChunk]):
    """Chunks of one request over SSE."""

    def __init__(self, http: httpx.Client, target: HttpTarget, new_id: Callable[[], str], ask: Ask) -> None:
        self._chunks = _HttpChunks(http, target, new_id, ask)
        self._reader = OneReader()

    @property
    def request_id(self) -> str:
        return self._chunks.request_id

    def __iter__(self) -> HttpStream:
        return self

    def __next__(self) -> StreamChunk:
        with self._reader:
            return next(self._chunks)

    def cancel(self) -> None:
        """Close the connection: the gateway frees the slot. From any thread; a reader's iteration then simply ends."""
        self._chunks.cancel()

    close = cancel

    def __enter__(self) -> HttpStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()  # at once: the generator within refers to its owner, so both would wait for the garbage collector


class _HttpChunks(Iterator[StreamChunk]):
    def __init__(self, http: httpx.Client, target: HttpTarget, new_id: Callable[[], str], ask: Ask) -> None:
        self._http, self._target, self._new_id, self._ask = http, target, new_id, ask
        self.request_id = ""
        self._left = False  # nobody wants the rest
        self._request: httpx.Request | None = None  # while it has a connection
        self._lock = threading.Lock()
        self._chunks = self._run()

    def __iter__(self) -> _HttpChunks:
        return self

    def __next__(self) -> StreamChunk:
        if self._left:
            raise StopIteration
        return next(self._chunks)

    def _run(self) -> Generator[StreamChunk, None, None]:
        attempts = HttpAttempts(self._ask, self._target.server)
        while True:
            reading, self.request_id = attempts.begin(), self._new_id()
            try:
                yield from self._once(reading)
                return
            except errors.ClientError as error:
                if self._left:
                    return
                delay = attempts.again_in(error, reading)
                if delay is None:
                    raise
                self._pause(delay)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._left and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))

    def _once(self, reading: Reading) -> Iterator[StreamChunk]:
        request = self._target.request(self._http, self._ask, self.request_id, reading.bounds)
        try:
            self._request = request
            try:
                response = self._http.send(request, stream=True)
                try:
                    if not self._left:
                        yield from self._chunks_of(response, request, reading)
                finally:
                    self._release()
                    response.close()
            finally:
                self._release()
        except httpx.HTTPError as error:
            if self._http.is_closed:
                raise errors.Cancelled(CUT_SHORT) from None
            raise self._target.failure(error, self._ask, reading.order) from None
        reading.order.ended()

    def _release(self) -> None:
        """The connection may go to another stream now."""
        with self._lock:
            self._request = None

    def _chunks_of(self, response: httpx.Response, request: httpx.Request, reading: Reading) -> Iterator[StreamChunk]:
        self._target.server.answered = True
        if response.status_code != 200:
            raise refused(response, response.read())
        self._target.server.answers()
        reading.answered(request)
        if not self._ask.stream:
            reading.whole(response.read())
            yield from reading.ready
            return
        for data in response.iter_raw():
            reading.feed(data)
            yield from reading.ready
            reading.ready.clear()

    def cancel(self) -> None:
        self._left = True
        try:
            self._chunks.close()
        except ValueError:  # another thread reads: it wakes up when the connection is shut, and closes it
            with self._lock:
                if self._request is not None:
                    http_sockets.wake(http_sockets.waiting(self._http, self._request))
