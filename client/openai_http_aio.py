"""The asyncio OpenAI/SSE transport; the rules are those of ``client.openai_http``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import httpx

from client import errors
from client.channels import CUT_SHORT
from client.http_target import HttpTarget, refused
from client.one_reader import OneReader
from client.openai_http import HttpAttempts, Reading
from client.request import Ask
from client.types import StreamChunk


class AsyncHttpStream(AsyncIterator[StreamChunk]):
    """Chunks of one request over SSE. Dropping it, ``aclose()``, ``cancel()`` or leaving ``async with`` closes the
    connection, by which the gateway frees the slot."""

    def __init__(self, http: httpx.AsyncClient, target: HttpTarget, new_id: Callable[[], str], ask: Ask) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks = _Chunks(http, target, new_id, ask)
        self._reader = OneReader()

    @property
    def request_id(self) -> str:
        return self._chunks.request_id

    def __aiter__(self) -> AsyncHttpStream:
        return self

    async def __anext__(self) -> StreamChunk:
        with self._reader:
            return await self._chunks.next()

    def cancel(self) -> None:
        """Close the connection soon. A reader's iteration then simply ends."""
        self._chunks.cancel()

    async def aclose(self) -> None:
        await self._chunks.aclose()

    async def __aenter__(self) -> AsyncHttpStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        """At once: the generator within refers to its owner, so both would wait for the garbage collector, which may
        run in another thread."""
        if self._chunks.open:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
                self._loop.call_soon_threadsafe(self._chunks.cancel)


class _Chunks:
    def __init__(self, http: httpx.AsyncClient, target: HttpTarget, new_id: Callable[[], str], ask: Ask) -> None:
        self._http, self._target, self._new_id, self._ask = http, target, new_id, ask
        self.request_id = ""
        self._chunks = self._run()
        self.open = self._left = False  # whether there is an answer to close; whether nobody wants the rest
        self._step: asyncio.Future[StreamChunk] | None = None  # the reader's wait for the next chunk
        self._closing: asyncio.Task[None] | None = None

    async def next(self) -> StreamChunk:
        if self._left:
            raise StopAsyncIteration
        step = self._step = asyncio.ensure_future(self._chunks.__anext__())
        try:
            return await step
        except asyncio.CancelledError:
            if self._left:  # by ``cancel()``, not with the reader's task
                raise StopAsyncIteration from None
            raise
        finally:
            if step.done():
                self._step = None
            del step  # an exception that is found in a frame of its own holds them all, the reader's too

    async def _run(self) -> AsyncGenerator[StreamChunk, None]:
        """One generator, and none of ours within: a loop that ends closes all that are left, in any order."""
        attempts = HttpAttempts(self._ask, self._target.server)
        while True:
            reading, self.request_id = attempts.begin(), self._new_id()
            try:
                request = self._target.request(self._http, self._ask, self.request_id, reading.bounds)
                try:
                    async with contextlib.aclosing(await self._http.send(request, stream=True)) as response:
                        self.open = True
                        await self._begin(response, request, reading)
                        if not self._ask.stream:
                            reading.whole(await response.aread())
                            yield reading.ready[0]
                        else:
                            async for data in response.aiter_raw():
                                reading.feed(data)
                                for chunk in reading.ready:
                                    yield chunk
                                reading.ready.clear()
                except httpx.HTTPError as error:
                    if self._http.is_closed:
                        raise errors.Cancelled(CUT_SHORT) from None
                    raise self._target.failure(error, self._ask, reading.order) from None
                self.open = False
                reading.order.ended()
                return
            except errors.ClientError as error:
                if self._left:
                    return
                delay = attempts.again_in(error, reading)
                if delay is None:
                    raise
                await asyncio.sleep(delay)

    async def _begin(self, response: httpx.Response, request: httpx.Request, reading: Reading) -> None:
        self._target.server.answered = True
        if response.status_code != 200:
            raise refused(response, await response.aread())
        self._target.server.answers()
        reading.answered(request)

    def cancel(self) -> None:
        self.open, self._left = False, True
        self._closing = asyncio.get_running_loop().create_task(self.aclose())

    async def aclose(self) -> None:
        self.open, self._left = False, True
        if self._step is not None and not self._step.done():
            self._step.cancel()
            await asyncio.wait({self._step})
        await self._chunks.aclose()
