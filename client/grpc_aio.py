"""The asyncio transport to Triton: one channel, one RPC per request, raw protobuf stubs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from client import errors
from client._call import AioCall
from client.channels import Channels
from client.credentials import PLAIN, Credentials
from client.one_reader import OneReader
from client.request import LEAVING_SECONDS, LOOK_SECONDS, Ask, Channel, Deadline, Metadata, RunningRequest
from client.types import StreamChunk
from contract.replica import Route


class AioChannel(Channel):
    """A channel to one Triton and the two calls made on it. Safe to share by all tasks of one event loop."""

    def __init__(self, target: str, *, credentials: Credentials = PLAIN, model: str = "qwen") -> None:
        super().__init__(grpc.aio, target, credentials, model)
        self._stops: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    def call(self, request: Any, timeout: float | None = None, metadata: Metadata = ()) -> Any:
        """Start a request; returns the call, an async iterator over ``ModelStreamInferResponse``."""
        sent = self._infer(request, timeout=timeout, metadata=(*self.metadata, *metadata))
        call = AioCall(sent, lambda to: self.stop(request.id, to))
        self._pumps.add(call.task)
        call.task.add_done_callback(self._pumps.discard)
        return call

    def stop(self, request_id: str, route: Route = ()) -> None:
        """Free the engine's slot of a running request. Returns at once; failures are harmless (it has ended)."""
        task = asyncio.get_running_loop().create_task(self._drain(self._stop(request_id, route)))
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    @staticmethod
    async def _drain(call: Any) -> None:
        try:
            async for _ in call:
                continue
        except grpc.RpcError:
            return  # nothing was running under that id any more

    async def connect(self, timeout: float | None) -> None:
        """Wait for the connection. A refused one returns too: the call then fails with the reason."""
        if self.raw.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        # not wait_for: until Python 3.12 it swallows a cancellation that comes in the same turn as the connection
        settled = asyncio.ensure_future(self._settled())
        try:
            done, _ = await asyncio.wait({settled}, timeout=timeout)
        finally:
            settled.cancel()
        if not done:
            raise errors.RequestTimeout("connect", timeout or 0.0)
        settled.result()

    async def _settled(self) -> None:
        settled = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        while (state := self.raw.get_state(try_to_connect=True)) not in settled:
            await self.raw.wait_for_state_change(state)

    async def close(self) -> None:
        """Lets stop requests, and the calls they end, leave first; a dropped stream sends its own only now."""
        clock = asyncio.get_running_loop().time
        until = clock() + LEAVING_SECONDS
        while (waiting := self._stops | self._pumps) and (left := until - clock()) > 0:
            await asyncio.wait(waiting, timeout=left)
        await self.raw.close()


def _watch(loop: asyncio.AbstractEventLoop, deadline: Deadline, shortest: float) -> None:
    """A timer that is armed again only when it fires, so that a chunk costs no timer.

    It never sleeps longer than the shortest bound: the due time may have moved closer meanwhile."""
    now = loop.time()
    if not deadline.over and not deadline.check(now):
        loop.call_at(min(deadline.due, now + shortest), _watch, loop, deadline, shortest)


class AsyncGrpcStream(RunningRequest, AsyncIterator[StreamChunk]):
    """Chunks of one request. Dropping it, ``aclose()``, ``cancel()`` or leaving ``async with`` frees the slot."""

    def __init__(self, channels: Channels[AioChannel], new_id: Callable[[], str], ask: Ask) -> None:
        super().__init__(channels, new_id, ask)
        self._loop = asyncio.get_running_loop()
        self._reader = OneReader()

    def __aiter__(self) -> AsyncGrpcStream:
        return self

    async def __anext__(self) -> StreamChunk:
        with self._reader:
            return await self._step()

    async def _step(self) -> StreamChunk:
        while not self._done:
            try:
                chunk = await self._next()
            except errors.ClientError as error:
                await self._pause(self._again_in(error))
            except asyncio.CancelledError:
                if not self._done:  # the task is cancelled, not only this request by ``cancel()``
                    self.cancel()
                    raise
            else:
                if chunk is not None:
                    return chunk
        self._check_open()
        raise StopAsyncIteration

    async def _pause(self, seconds: float) -> None:
        until = self._loop.time() + seconds
        while not self._done and (left := until - self._loop.time()) > 0:
            await asyncio.sleep(min(left, LOOK_SECONDS))

    async def _next(self) -> StreamChunk | None:
        """The next chunk, or ``None`` when the stream has ended."""
        if self._call is None:
            await self._choose().connect(self._connect_bound())
            deadline, limits = self._begin(self._loop.time()), self._ask.timeouts
            shortest = min((s for s in (limits.first_token, limits.between_chunks) if s is not None), default=None)
            if shortest is not None:
                _watch(self._loop, deadline, shortest)
        try:
            async for message in self._call:
                if chunk := self._chunk(message, self._loop.time()):
                    return chunk
        except grpc.RpcError as error:
            raise self._failure(error) from None
        except asyncio.CancelledError:  # also raised when the deadline has cancelled the call
            if self._deadline and self._deadline.expired:
                raise self._deadline.expired from None
            raise
        self._finish()
        return None

    async def aclose(self) -> None:
        self.cancel()

    async def __aenter__(self) -> AsyncGrpcStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if self._deadline:  # else its timer stops the request once more, on a channel that may be closed by then
            self._deadline.over = True
        if self._leased:
            self._channels.left(self._channel)
        if not self._done and self._call is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_stop_dropped, self._channel, self.request_id, self._call)


def _stop_dropped(channel: AioChannel, request_id: str, call: Any) -> None:
    channel.stop(request_id, call.route)
    call.cancel()
