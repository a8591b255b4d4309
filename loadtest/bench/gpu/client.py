"""The client of bench-gpu, over gRPC or server-sent events: N streams, each sending its next request when its last one
ended, or requests that arrive at a given rate whatever the server does.

Several processes share the streams, so that the client is never what is measured; each message is stamped when it
arrives and parsed no further than its token count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty
from typing import Any

from client import kserve
from client.grpc_aio import AioChannel
from client.sequences import request_ids
from client.sse import Events
from client.types import Options
from loadtest.bench.gpu.samples import SAMPLING, TimedStream

STREAMS_PER_PROCESS = 32
RATE_PROCESSES = 4  # that share the arrivals of an open loop
TIMEOUT_S = 300.0
REST_S = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """``streams`` at a time or, with a ``rate``, that many requests/s in Poisson arrivals.

    ``sampling``: a name of ``SAMPLING``. ``tokens`` per answer; 0: what the run says for all.
    """

    streams: int = 0
    rate: float = 0.0
    sampling: str = "greedy"
    tokens: int = 0

    def __str__(self) -> str:
        load = f"{self.rate:g} requests/s" if self.rate else f"{self.streams} streams"
        return f"{load}, {self.tokens:,} tokens" if self.tokens else load


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """``kind``: ``grpc`` (the ensemble) or ``sse`` (an OpenAI server); ``address``: host:port; ``model``: its name."""

    kind: str
    address: str
    model: str
    max_tokens: int


def run(target: BenchTarget, prompts: Sequence[str], load: Load) -> list[TimedStream]:
    """Send every prompt once. Blocks; returns one record per prompt."""
    processes = RATE_PROCESSES if load.rate else max(1, -(-load.streams // STREAMS_PER_PROCESS))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    queue = context.Queue()
    workers = [
        context.Process(
            target=_process,
            args=(target, prompts[i::processes], _share(load, processes, i), i, barrier, queue),
            daemon=True,
        )
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    records = [record for _ in workers for record in _result(queue, workers)]
    for worker in workers:
        worker.join()
    return records


def _result(queue: Any, workers: Sequence[Any]) -> list[TimedStream]:
    """The next process's records. Raises ``RuntimeError`` when one died without any."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        records = _poll(queue)
        if records is not None:
            return records
        if any(worker.exitcode for worker in workers):
            break
    for worker in workers:
        worker.kill()
    raise RuntimeError(f"a client process ended or hung ({[worker.exitcode for worker in workers]})")


def _poll(queue: Any) -> list[TimedStream] | None:
    with contextlib.suppress(Empty):
        records: list[TimedStream] = queue.get(timeout=1.0)
        return records
    return None


def _share(load: Load, processes: int, index: int) -> Load:
    streams = load.streams // processes + (index < load.streams % processes)
    return replace(load, streams=streams, rate=load.rate / processes)


def _process(target: BenchTarget, prompts: Sequence[str], load: Load, index: int, barrier: Any, queue: Any) -> None:
    queue.put(asyncio.run(_loop(target, list(prompts), load, random.Random(index), barrier)))


async def _loop(
    target: BenchTarget, prompts: list[str], load: Load, arrivals: random.Random, barrier: Any
) -> list[TimedStream]:
    session = _Grpc(target, load.sampling) if target.kind == "grpc" else _Sse(target, load.sampling)
    await session.open()
    records: list[TimedStream] = []
    barrier.wait()

    async def send(prompt: str) -> None:
        record = TimedStream(time.perf_counter(), 0.0, 0.0, 0)
        try:
            await session.stream(prompt, record)
        except Exception as error:  # noqa: BLE001 (whatever went wrong is this request's result)
            record.error = f"{type(error).__name__}: {error}"
        records.append(record)

    async def keep_busy() -> None:
        while prompts:
            await send(prompts.pop())

    if load.rate:
        running, due = [], time.perf_counter()
        for prompt in prompts:
            due += arrivals.expovariate(load.rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            running.append(asyncio.create_task(send(prompt)))
        await asyncio.gather(*running)
    else:
        await asyncio.gather(*(keep_busy() for _ in range(load.streams)))
    await session.close()
    return records


def _arrived(record: TimedStream, tokens: int) -> None:
    """A message with new tokens; ``tokens`` is the stream's total so far."""
    now = time.perf_counter()
    if record.tokens:
        record.gaps.append(now - record.last)
    else:
        record.first = now
    record.last, record.tokens = now, tokens


async def vanish(target: BenchTarget, prompt: str) -> None:
    """A client that dies: its connection is closed under a stream, without a stop request."""
    session = _Grpc(target)
    await session.open()
    async for _ in session.call(prompt):
        break
    await session.cut()


class _Grpc:
    """The client library's own call, read no further than the token count."""

    def __init__(self, target: BenchTarget, sampling: str = "greedy") -> None:
        self._target = target
        settings: dict[str, Any] = SAMPLING[sampling]
        self._options = Options(max_tokens=target.max_tokens, ignore_eos=True, **settings)
        self._new_id = request_ids()

    async def open(self) -> None:
        self._channel = AioChannel(self._target.address, model=self._target.model)
        await self._channel.connect(TIMEOUT_S)

    async def close(self) -> None:
        await self._channel.close()

    async def cut(self) -> None:
        """Close the connection under whatever runs on it."""
        await self._channel.raw.close()

    def call(self, prompt: str) -> Any:
        request = kserve.infer_request(self._new_id(), prompt, self._options, stream=True, model=self._target.model)
        return self._channel.call(request)

    async def stream(self, prompt: str, record: TimedStream) -> None:
        async for response in self.call(prompt):
            got = kserve.output(response)
            if got is not None and got.completion_tokens > record.tokens:
                _arrived(record, got.completion_tokens)
        if record.tokens != self._target.max_tokens:
            raise RuntimeError(f"{record.tokens} of {self._target.max_tokens} tokens arrived")


class _Sse:
    """``/v1/completions``, streamed, over kept-alive connections; the final usage gives the token count."""

    def __init__(self, target: BenchTarget, sampling: str = "greedy") -> None:
        self._target, self._sampling = target, SAMPLING[sampling]
        self._host, _, port = target.address.rpartition(":")
        self._port = int(port)
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        for _, _, writer in self._idle:
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that was used a moment ago, or a new one: servers close those that rest (uvicorn after 5 s)."""
        while self._idle:
            since, reader, writer = self._idle.pop()
            if time.monotonic() - since < REST_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    async def stream(self, prompt: str, record: TimedStream) -> None:
        reader, writer = await self._connection()
        writer.write(self._request(prompt))
        status = await reader.readline()
        if b" 200 " not in status:
            answer = await reader.read(2000)
            writer.close()
            raise RuntimeError(f"{status.decode().strip()}: {answer.decode(errors='replace').splitlines()[-1][:200]}")
        while (await reader.readline()).strip():  # headers
            continue
        events, usage = Events(), 0
        async for data in _chunks(reader):
            for event in events.feed(data):
                usage = _read(event, record) or usage
        record.tokens = usage
        if usage != self._target.max_tokens:
            raise RuntimeError(f"{usage} of {self._target.max_tokens} tokens arrived")
        self._idle.append((time.monotonic(), reader, writer))

    def _request(self, prompt: str) -> bytes:
        body = json.dumps(
            {
                "model": self._target.model,
                "prompt": prompt,
                "max_tokens": self._target.max_tokens,
                **self._sampling,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._target.address}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a chunked answer (RFC 9112, 7.1), read to its end so that the connection can be used again."""
    while size := int((await reader.readline()).partition(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


def _read(event: bytes, record: TimedStream) -> int:
    """Stamp one event. Returns its ``completion_tokens``, 0 where it names none."""
    if event == b"[DONE]":
        return 0
    if b'"choices":[]' not in event and b'"choices": []' not in event:
        _arrived(record, record.tokens + 1)
    return int((json.loads(event).get("usage") or {}).get("completion_tokens") or 0) if b'"usage"' in event else 0
