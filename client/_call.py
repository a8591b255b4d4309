"""Abandons calls without cancelling the RPC.

Triton 2.51 crashes (SIGSEGV) after some hundred cancelled streams, because it may touch a stream's state after freeing
it (https://github.com/triton-inference-server/server/issues/8034, fixed by pull request 8078). So a call that nobody
wants any more is stopped in the engine by its id and then read to its end in the background; the RPC is cancelled only
if it still has not ended after that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from contract.replica import Route, route

# Seconds after leaving at which the engine is asked again: the first stop may have overtaken its request.
STOP_AGAIN = (0.2, 1.0, 2.0)
RETRY_SECONDS = 0.02
PATIENCE = 5.0  # seconds after leaving until the RPC is cancelled after all
UNREAD = 64  # messages kept for a slow reader; then flow control holds the server back


class AioCall:
    """A call as an async iterator. ``cancel()`` ends the iteration at once with ``CancelledError``."""

    def __init__(self, rpc: Any, stop: Callable[[Route], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._rpc, self._stop = rpc, stop
        self.route: Route = ()  # known with the first message
        self._begun = False
        self._messages: deque[Any] = deque()
        self._end: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None  # the reader, while there is nothing to read
        self._room: asyncio.Future[None] | None = None  # the pump, while there is too much
        self._timers: list[asyncio.TimerHandle] = []
        self.task = self._loop.create_task(self._pump())

    def __aiter__(self) -> AioCall:
        return self

    async def __anext__(self) -> Any:
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._room and len(self._messages) <= UNREAD // 2:
            _wake(self._room)
        return self._messages.popleft()

    def done(self) -> bool:
        return self._end is not None

    def cancel(self) -> None:
        """Leave the call. The caller has asked the engine to stop it."""
        if self._end is None:
            self._finish(asyncio.CancelledError())
            self._messages.clear()
            _wake(self._room)
            if not self._loop.is_closed():
                self._timers = [self._loop.call_later(delay, self._stop, self.route) for delay in STOP_AGAIN]
                self._timers.append(self._loop.call_later(PATIENCE, self._rpc.cancel))

    async def _pump(self) -> None:
        try:
            async for message in self._rpc:
                if not self._begun:
                    self._begun, self.route = True, route(await self._rpc.initial_metadata())
                if self._end is None:
                    self._messages.append(message)
                    _wake(self._waiter)
                    if len(self._messages) >= UNREAD:
                        self._room = self._loop.create_future()
                        await self._room
                        self._room = None
            self._finish(StopAsyncIteration())
        except (grpc.RpcError, asyncio.CancelledError) as error:
            self._finish(error)
        finally:
            for timer in self._timers:
                timer.cancel()

    def _finish(self, end: BaseException) -> None:
        self._end = self._end or end
        _wake(self._waiter)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class SyncCall:
    """A call as an iterator. Left while nobody reads it, it is read to its end by a thread of its own."""

    def __init__(self, rpc: Any, stop: Callable[[Route], None]) -> None:
        self._rpc, self._stop = rpc, stop
        self._reading = self._left = self._begun = False
        self._drained: threading.Thread | None = None
        self.route: Route = ()  # known with the first message

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._reading = True
        try:
            message = next(self._rpc)
            if not self._begun:
                self._begun, self.route = True, route(self._rpc.initial_metadata())
            return message
        finally:
            self._reading = False

    def cancel(self) -> None:
        """Leave the call. The caller has asked the engine to stop it. A reader in another thread gets its RpcError."""
        if self._left or self._rpc.done():
            return
        self._left = True
        if self._reading:
            self._rpc.cancel()
        else:
            drain = threading.Thread(target=self._drain, name="qwen-client-drain", daemon=True)
            try:
                drain.start()
            except RuntimeError:  # Python 3.12.0 and 3.12.1 start no thread once the program ends
                self._rpc.cancel()
            else:
                self._drained = drain

    def join(self, seconds: float) -> None:
        """Wait for the end of a call that was left."""
        if self._drained is not None:
            self._drained.join(seconds)

    def _drain(self) -> None:
        timers = [threading.Timer(delay, self._stop, [self.route]) for delay in STOP_AGAIN]
        timers.append(threading.Timer(PATIENCE, self._rpc.cancel))
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            while self._read_one():
                continue
        except grpc.RpcError:
            return  # it has ended, by itself or by our cancelling: nobody wants to know
        finally:
            for timer in timers:
                timer.cancel()

    def _read_one(self) -> bool:
        """False at the end."""
        try:
            next(self._rpc)
        except StopIteration:
            return False
        except ValueError:  # grpc allows one receive at a time; the one that a Ctrl-C left is still under way
            time.sleep(RETRY_SECONDS)
        return True
