"""``Client`` and ``AsyncClient``: one interface, two transports, chosen by the address."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from client import errors, http_sockets, refusals
from client.address import DEFAULT, parse_all
from client.channels import Channels
from client.credentials import Credentials, Tls
from client.grpc_aio import AioChannel, AsyncGrpcStream
from client.grpc_sync import GrpcStream, SyncChannel
from client.http_target import HttpTarget
from client.openai_http import HttpStream
from client.openai_http_aio import AsyncHttpStream
from client.option_check import checked
from client.request import Ask, Metadata
from client.sequences import Collector, collect, request_ids
from client.types import Options, Prompt, Result, Retry, Timeouts
from contract import key_file

Stream = GrpcStream | HttpStream
AsyncStream = AsyncGrpcStream | AsyncHttpStream
# httpx opens 100 connections at most unless told otherwise, which silently caps a batch.
_POOL = httpx.Limits(max_connections=None, max_keepalive_connections=64)
_DEFAULTS = Options()
_T = TypeVar("_T")


class _Settings:
    """What both clients keep: the address and the defaults of a request."""

    def __init__(
        self, address: str = DEFAULT, *, model: str = "qwen", api_key: str | None = None, tls: Tls | None = None,
        timeouts: Timeouts = Timeouts(), retry: Retry = Retry(),  # noqa: B008  # frozen values
    ) -> None:  # fmt: skip
        """``address``: ``host:port`` of Triton's gRPC (default 127.0.0.1:8001) or the gateway's ``http://host:port``.

        ``a:8001,b:8001``: the one with the fewest open requests gets the next one, and a stream whose server dies goes
        on at another one.

        ``api_key``: the gateway's, or that of the gRPC proxy. ``tls``: certificates for ``grpcs://`` and ``https://``;
        with it, ``host:port`` means ``grpcs://host:port``.

        Raises ``ValueError`` for an address that is neither, a key that no header can hold, a certificate that cannot
        be read, an argument of another kind."""
        self.addresses = parse_all(address, secure=tls is not None)
        self.address = self.addresses[0]
        self.timeouts, self.retry = _kind("timeouts", timeouts, Timeouts), _kind("retry", retry, Retry)
        self._new_id = request_ids()
        key = key_file.checked(_kind("api_key", api_key or "", str), "api_key")
        self._target = HttpTarget(self.address.target, model=model, api_key=key)
        self._credentials = Credentials(key, tls or (Tls() if self.address.secure else None))
        self._context = self._credentials.tls.context() if self._credentials.tls else True  # httpx's default
        self._model = model
        self._opening = threading.Lock()

    def _ask(
        self, prompt: Prompt, options: Options, stream: bool, timeouts: Timeouts | None, metadata: Metadata
    ) -> Ask:
        """Several sequences come in a stream in any case. Raises ``InvalidRequest``."""
        options = checked(options, prompt)
        limits = self.timeouts if timeouts is None else _kind("timeouts", timeouts, Timeouts)
        return Ask(prompt, options, stream or options.n > 1, limits, self.retry, metadata)


def _kind(name: str, value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"{name}: {type(value).__name__} is not {kind.__name__}; give {kind.__name__}(…)")
    return value


def _check_batch(prompts: object, concurrency: object) -> None:
    if isinstance(prompts, (str, bytes, Mapping)):  # a text would be asked letter by letter
        raise ValueError(f"prompts: {type(prompts).__name__} is not a list of prompts; give [prompt] or call generate")
    if not isinstance(concurrency, Integral) or concurrency < 1:  # a semaphore of 0 would wait for ever
        raise ValueError(f"concurrency: {concurrency!r}; give at least 1")


class Client(_Settings):
    """Blocking client. Use it as a context manager; share it between threads.

    >>> with Client() as qwen:                                        # doctest: +SKIP
    ...     for chunk in qwen.stream([{"role": "user", "content": "Hi"}]):
    ...         print(chunk.text, end="", flush=True)
    """

    def connect(self, timeout: float = 5.0) -> None:
        """Raises ``client.errors.ConnectError`` when nothing listens at the address. A request does not need it."""
        parts = urlsplit(self.address.target if "://" in self.address.target else f"//{self.address.target}")
        port = parts.port or (443 if self.address.secure else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout).close()
        except OSError as error:
            raise refusals.unreachable(self.address.target, error.strerror or str(error)) from None

    def _channels(self) -> Channels[SyncChannel]:
        with self._opening:
            if not hasattr(self, "_grpc"):
                self._grpc = Channels(
                    [SyncChannel(a.target, credentials=self._credentials, model=self._model) for a in self.addresses]
                )
            return self._grpc

    def _http(self) -> httpx.Client:
        with self._opening:
            if not hasattr(self, "_web"):
                self._web = httpx.Client(limits=_POOL, trust_env=False, verify=self._context)
            return self._web

    def _open(self, ask: Ask) -> Stream:
        if self.address.transport == "grpc":
            return GrpcStream(self._channels(), self._new_id, ask)
        return HttpStream(self._http(), self._target, self._new_id, ask)

    def stream(
        self, prompt: Prompt, options: Options = _DEFAULTS, *, timeouts: Timeouts | None = None, metadata: Metadata = ()
    ) -> Stream:
        """Chunks as they are made. ``prompt``: raw text, or a list of OpenAI messages (chat template applied).

        Iterating raises a ``client.errors.ClientError``; leaving the loop early stops the request on the server."""
        return self._open(self._ask(prompt, options, True, timeouts, metadata))

    def generate(
        self, prompt: Prompt, options: Options = _DEFAULTS, *, timeouts: Timeouts | None = None, metadata: Metadata = ()
    ) -> Result:
        """The whole answer at once. Raises a ``client.errors.ClientError``."""
        ask = self._ask(prompt, options, False, timeouts, metadata)
        with self._open(ask) as stream:
            chunks = list(stream)
        return collect(stream.request_id, ask.options, chunks)

    def batch(
        self, prompts: Iterable[Prompt], options: Options = _DEFAULTS, *, concurrency: int = 32
    ) -> list[Result | errors.ClientError]:
        """Answers in the order of ``prompts``, at most ``concurrency`` at once; a failed prompt gives its exception."""

        _check_batch(prompts, concurrency)

        def one(prompt: Prompt) -> Result | errors.ClientError:
            try:
                return self.generate(prompt, options)
            except errors.ClientError as error:
                return error

        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(one, prompts))

    def close(self) -> None:
        if hasattr(self, "_grpc"):
            self._grpc.close()
            for channel in self._grpc.all:
                channel.close()
        if hasattr(self, "_web"):
            readers = http_sockets.waiting(self._web)
            self._web.close()
            http_sockets.wake(readers)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Settings):
    """asyncio client, for one event loop. One connection carries all streams.

    >>> async with AsyncClient() as qwen:                             # doctest: +SKIP
    ...     async for chunk in qwen.stream("Once upon a time", Options(max_tokens=64)):
    ...         print(chunk.text, end="", flush=True)
    """

    def _channels(self) -> Channels[AioChannel]:
        if not hasattr(self, "_grpc"):
            self._grpc = Channels(
                [AioChannel(a.target, credentials=self._credentials, model=self._model) for a in self.addresses]
            )
        return self._grpc

    def _http(self) -> httpx.AsyncClient:
        if not hasattr(self, "_web"):
            self._web = httpx.AsyncClient(limits=_POOL, trust_env=False, verify=self._context)
        return self._web

    def _open(self, ask: Ask) -> AsyncStream:
        loop = asyncio.get_running_loop()
        self._loop = getattr(self, "_loop", loop)
        if self._loop is not loop:
            raise RuntimeError("an AsyncClient belongs to the event loop of its first request; make one for each loop")
        if self.address.transport == "grpc":
            return AsyncGrpcStream(self._channels(), self._new_id, ask)
        return AsyncHttpStream(self._http(), self._target, self._new_id, ask)

    def stream(
        self, prompt: Prompt, options: Options = _DEFAULTS, *, timeouts: Timeouts | None = None, metadata: Metadata = ()
    ) -> AsyncStream:
        """As ``Client.stream``; needs a running event loop. Dropping the iterator stops the request on the server."""
        return self._open(self._ask(prompt, options, True, timeouts, metadata))

    async def generate(
        self, prompt: Prompt, options: Options = _DEFAULTS, *, timeouts: Timeouts | None = None, metadata: Metadata = ()
    ) -> Result:
        """The whole answer at once. Cancelling the task stops the request on the server."""
        ask = self._ask(prompt, options, False, timeouts, metadata)
        collector = Collector(ask.options.n)
        async with self._open(ask) as stream:
            async for chunk in stream:
                collector.add(chunk)
        return collector.result(stream.request_id)

    async def batch(
        self, prompts: Sequence[Prompt], options: Options = _DEFAULTS, *, concurrency: int = 32
    ) -> list[Result | errors.ClientError]:
        """Answers in the order of ``prompts``, at most ``concurrency`` at once; a failed prompt gives its exception."""
        _check_batch(prompts, concurrency)
        gate = asyncio.Semaphore(concurrency)

        async def one(prompt: Prompt) -> Result | errors.ClientError:
            async with gate:
                try:
                    return await self.generate(prompt, options)
                except errors.ClientError as error:
                    return error

        return list(await asyncio.gather(*map(one, prompts)))

    async def close(self) -> None:
        if hasattr(self, "_grpc"):
            self._grpc.close()
            for channel in self._grpc.all:
                await channel.close()
        if hasattr(self, "_web"):
            await self._web.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
