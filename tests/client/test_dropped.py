"""A stream that nobody holds any more is gone at once, and its slot with it. No part of a stream leads back to it, nor
to the frames that read it: else both, and all other streams in those frames, would wait for the garbage collector,
which is off here."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from client import AsyncClient, Client, Options, Retry, Timeouts, errors
from contract.paths import ROOT
from tests.client.fake_openai import FakeOpenAI
from tests.client.fake_triton import FakeTriton

LONG = Options(max_tokens=1000)  # 20 s
FREE = 10.0
# how the reading ends -> the prompt
WAYS = {
    "left early": "x", "read to its end": "SAY a", "refused": "ERR invalid_request prompt: bad", "too slow": "STALL 30",
    "never read": "",
}  # fmt: skip
FAILS = ("refused", "too slow")
Seen = list[weakref.ref[Any]]


@pytest.fixture(params=["grpc", "http"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeTriton | FakeOpenAI]:
    started = FakeTriton(step_ms=20).start() if request.param == "grpc" else FakeOpenAI().start()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def address(server: FakeTriton | FakeOpenAI) -> str:
    return server.grpc if isinstance(server, FakeTriton) else server.url


class Held:
    """Stands for what else a frame holds: other streams."""


def read(client: Client, prompt: str, seen: Seen) -> None:
    held = Held()
    seen.append(weakref.ref(held))
    stream = client.stream(prompt, LONG)
    for _ in stream if prompt else ():
        if prompt == "x":
            break


async def read_async(client: AsyncClient, prompt: str, seen: Seen) -> None:
    held = Held()
    seen.append(weakref.ref(held))
    stream = client.stream(prompt, LONG)
    if prompt:
        async for _ in stream:
            if prompt == "x":
                break


@pytest.mark.parametrize("way", WAYS)
def test_blocking(server: FakeTriton | FakeOpenAI, way: str) -> None:
    seen: Seen = []
    with Client(address(server), timeouts=Timeouts(between_chunks=0.3), retry=Retry(attempts=1)) as client:
        try:
            read(client, WAYS[way], seen)
        except errors.ClientError:
            assert way in FAILS
        else:
            assert way not in FAILS
        assert [ref() for ref in seen] == [None]
        server.wait_free(FREE)


@pytest.mark.parametrize("way", WAYS)
async def test_asyncio(server: FakeTriton | FakeOpenAI, way: str) -> None:
    seen: Seen = []
    async with AsyncClient(address(server), timeouts=Timeouts(between_chunks=0.3), retry=Retry(attempts=1)) as client:
        try:
            await read_async(client, WAYS[way], seen)
        except errors.ClientError:
            assert way in FAILS
        else:
            assert way not in FAILS
        await asyncio.sleep(0)  # the loop itself holds what woke this task
        assert [ref() for ref in seen] == [None]
        await asyncio.to_thread(server.wait_free, FREE)


async def test_a_generator_around_a_stream_that_is_left(server: FakeTriton | FakeOpenAI) -> None:
    """As web frameworks have it."""
    async with AsyncClient(address(server)) as client:

        async def texts() -> AsyncIterator[str]:
            async for chunk in client.stream("x", LONG):
                yield chunk.text

        async for _ in texts():
            break
        await asyncio.to_thread(server.wait_free, FREE)


async def test_in_another_thread(server: FakeTriton | FakeOpenAI) -> None:
    """Where a collector that runs there would drop it."""
    async with AsyncClient(address(server)) as client:
        streams = [client.stream("x", LONG)]
        await streams[0].__anext__()
        await asyncio.to_thread(streams.clear)
        await asyncio.to_thread(server.wait_free, FREE)


def test_after_an_answer_went_on_at_another_server() -> None:
    """What had broken it off is kept to be told."""
    pair = [FakeTriton(step_ms=20).start() for _ in range(2)]
    pair[0].dies_at = 2

    def blocking(client: Client) -> None:
        for chunk in client.stream("x", LONG):
            if chunk.chunk_index == 3:
                break

    async def both() -> None:
        async with AsyncClient(",".join(fake.grpc for fake in pair)) as client:
            async for chunk in client.stream("x", LONG):
                if chunk.chunk_index == 3:
                    break
            await asyncio.to_thread(pair[1].wait_free, FREE)

    with Client(",".join(fake.grpc for fake in pair)) as client:
        blocking(client)
        pair[1].wait_free(FREE)
    asyncio.run(both())
    assert len(pair[1].requests) == 2
    for fake in pair:
        fake.stop()


PROGRAM = """
import asyncio, gc
from client import AsyncClient, Options

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    client = AsyncClient({address!r})
    async for _ in client.stream("x", Options(max_tokens=1000)):
        break
    {ending}

gc.disable()
asyncio.run(main())
"""


@pytest.mark.parametrize("ending", ["await client.close()", "await asyncio.sleep(0.1); await client.close()", "pass"])
def test_nothing_is_printed(server: FakeTriton | FakeOpenAI, ending: str) -> None:
    program = PROGRAM.format(address=address(server), ending=ending)
    strictly = () if ending == "pass" else ("-W", "error", "-X", "dev")  # which asks for a client that is closed
    command = [sys.executable, *strictly, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server.wait_free(FREE)
