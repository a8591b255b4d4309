"""Two readers of one stream would each get part of the answer: the second is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from client import NO_RETRY, AsyncClient, Client
from tests.client.fake_openai import FakeOpenAI
from tests.client.fake_triton import FakeTriton
from tests.waiting import until


@pytest.fixture(params=["grpc", "http"])
def server(request: pytest.FixtureRequest, fake: FakeTriton) -> Iterator[str]:
    if request.param == "grpc":
        yield fake.grpc
        return
    gateway = FakeOpenAI().start()
    yield gateway.url
    gateway.stop()


def test_a_second_thread_is_told_and_the_first_reads_on(server: str) -> None:
    with Client(server, retry=NO_RETRY) as client:
        stream: Any = client.stream("STALL 30")
        read: list[Any] = []
        reader = threading.Thread(target=lambda: read.extend(stream))
        reader.start()
        until(lambda: read and stream._reader._lock.locked())
        with pytest.raises(RuntimeError, match="a stream of its own"):
            next(stream)
        stream.cancel()
        reader.join(60)
    assert not reader.is_alive() and read


async def test_a_second_task_is_told_and_the_first_reads_on(server: str) -> None:
    async with AsyncClient(server, retry=NO_RETRY) as client:
        stream: Any = client.stream("STALL 30")
        read: list[Any] = []

        async def reading() -> None:
            async for chunk in stream:
                read.append(chunk)  # noqa: PERF401 - looked at while it goes on

        reader = asyncio.create_task(reading())
        while not (read and stream._reader._lock.locked()):
            await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="a stream of its own"):
            await anext(stream)
        stream.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(reader, 60)
    assert read
