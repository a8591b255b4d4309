"""The blocking transport to Triton. May be shared by threads; the rules are those of ``client.grpc_aio``."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import grpc
from tritonclient.grpc import service_pb2 as pb

from client import errors
from client._call import SyncCall
from client.channels import Channels
from client.credentials import PLAIN, Credentials
from client.one_reader import OneReader
from client.request import LEAVING_SECONDS, LOOK_SECONDS, Ask, Channel, Deadline, Metadata, RunningRequest
from client.types import StreamChunk
from contract.replica import Route

_clients: WeakSet[Channels[Any]] = WeakSet()


@atexit.register
def _leave() -> None:
    """Stop what still runs when the program ends: no thread starts any more when ``__del__`` would need one."""
    for channels in list(_clients):
        channels.close()
        for channel in channels.all:
            channel.close()


class Watchdog:
    """One thread per client that looks at all deadlines; gRPC's blocking iterator has no timeout per message."""

    TICK = 0.05  # seconds; how late a timeout may come

    def __init__(self) -> None:
        self._deadlines: set[Deadline] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, deadline: Deadline) -> None:
        with self._changed:
            self._deadlines.add(deadline)
            if self._thread is None or not self._thread.is_alive():  # a fork takes no thread along
                self._thread = threading.Thread(target=self._run, daemon=True, name="client-watchdog")
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                watched = list(self._deadlines)
            now = time.monotonic()
            over = {d for d in watched if d.over or d.check(now)}
            with self._changed:
                self._deadlines -= over
                if not self._closed:
                    self._changed.wait(self.TICK if self._deadlines else None)


class SyncChannel(Channel):
    """A channel to one Triton and the two calls made on it."""

    def __init__(self, target: str, *, credentials: Credentials = PLAIN, model: str = "qwen") -> None:
        super().__init__(grpc, target, credentials, model)
        self._live = self.raw.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=pb.ServerLiveRequest.SerializeToString,
            response_deserializer=pb.ServerLiveResponse.FromString,
        )
        self.watchdog = Watchdog()
        self._connected = False
        self._calls: WeakSet[SyncCall] = WeakSet()

    def call(self, request: Any, timeout: float | None = None, metadata: Metadata = ()) -> Any:
        sent = self._infer(request, timeout=timeout, metadata=(*self.metadata, *metadata))
        call = SyncCall(sent, lambda to: self.stop(request.id, to))
        self._calls.add(call)
        return call

    def stop(self, request_id: str, route: Route = ()) -> None:
        """Free the engine's slot of a running request. Returns at once; the call ends by itself."""
        call = self._stop(request_id, route)
        call.add_callback(call.cancel)  # holds the call until its end: a call that is dropped is cancelled

    def connect(self, timeout: float | None) -> None:
        """Wait, once, for the connection. A refused one returns too: the call then fails with the reason."""
        if self._connected:
            return
        try:
            self._live(pb.ServerLiveRequest(), timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise errors.RequestTimeout("connect", timeout or 0.0) from None
        self._connected = True

    def close(self) -> None:
        """Lets the calls that were left end first."""
        deadline = time.monotonic() + LEAVING_SECONDS
        for call in list(self._calls):
            call.join(max(0.0, deadline - time.monotonic()))
        self.watchdog.close()
        self.raw.close()


class GrpcStream(RunningRequest, Iterator[StreamChunk]):
    """Chunks of one request. Dropping it, ``close()``, ``cancel()`` or leaving ``with`` frees the engine's slot."""

    def __init__(self, channels: Channels[SyncChannel], new_id: Callable[[], str], ask: Ask) -> None:
        super().__init__(channels, new_id, ask)
        self._reader = OneReader()
        _clients.add(channels)

    def __iter__(self) -> GrpcStream:
        return self

    def __next__(self) -> StreamChunk:
        with self._reader:
            return self._step()

    def _step(self) -> StreamChunk:
        while not self._done:
            try:
                chunk = self._next()
            except errors.ClientError as error:
                self._pause(self._again_in(error))
            except BaseException:  # KeyboardInterrupt while waiting: the slot must not stay taken
                self.cancel()
                raise
            else:
                if chunk is not None:
                    return chunk
        self._check_open()
        raise StopIteration

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._done and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))

    def _next(self) -> StreamChunk | None:
        """The next chunk, or ``None`` when the stream has ended."""
        if self._call is None:
            self._choose().connect(self._connect_bound())
            self._channel.watchdog.watch(self._begin(time.monotonic()))
        try:
            for message in self._call:
                if chunk := self._chunk(message, time.monotonic()):
                    return chunk
        except grpc.RpcError as error:  # the call itself, which grpc's own frame holds, and with it the reader's
            raise self._failure(error.with_traceback(None)) from None
        self._finish()
        return None

    close = RunningRequest.cancel

    def __enter__(self) -> GrpcStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.cancel()
