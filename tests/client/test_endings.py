"""The end of a client, of its process, of its event loop, and of a fork: nothing hangs, and no strange error comes."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from client import AsyncClient, Client, Options, Retry, Timeouts, errors
from client.credentials import PLAIN
from client.grpc_aio import AioChannel
from client.sequences import request_ids
from contract.paths import ROOT
from tests.client.fake_triton import FakeTriton

LONG = Options(max_tokens=5000)
PROGRAM = """
from client import Client, Options
client = Client({address!r})
stream = client.stream("x", Options(max_tokens=5000))
next(stream)
raise SystemExit(3)
"""


def test_a_program_that_ends_with_an_open_stream_ends_and_stops_it(fake: FakeTriton) -> None:
    fake.step_ms = 20
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM.format(address=fake.grpc)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert [reason for _, reason, _ in fake.ended] == ["cancelled"]


@pytest.mark.parametrize("reading", [False, True])
def test_closing_a_client_ends_its_streams_with_an_error(fake: FakeTriton, reading: bool) -> None:
    fake.step_ms = 20
    client = Client(fake.grpc)
    stream = client.stream("x", LONG)
    next(stream)
    if reading:
        threading.Timer(0.1, client.close).start()
    else:
        client.close()
    with pytest.raises(errors.Cancelled, match="the client was closed before the answer had ended"):
        list(stream)
    fake.wait_free()
    with pytest.raises(errors.Cancelled, match="the client is closed; make a new one"):
        client.generate("x")


async def test_closing_an_asyncio_client_does_the_same(fake: FakeTriton) -> None:
    fake.step_ms = 20
    client = AsyncClient(fake.grpc)
    stream = client.stream("x", LONG)
    await stream.__anext__()
    await client.close()
    with pytest.raises(errors.Cancelled, match="the client was closed before the answer had ended"):
        [chunk async for chunk in stream]
    assert [reason for _, reason, _ in fake.ended] == ["cancelled"]
    with pytest.raises(errors.Cancelled, match="the client is closed; make a new one"):
        await client.generate("x")


async def test_a_dropped_stream_is_stopped_once_and_never_after_its_client(fake: FakeTriton) -> None:
    """Its timer fired in the closed channel: asyncio printed a traceback, at the worst a minute later."""
    fake.step_ms = 20
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with AsyncClient(fake.grpc, timeouts=Timeouts(first_token=0.2, between_chunks=0.2)) as client:
        stream = client.stream("x", LONG)
        await stream.__anext__()
        deadline = loop.time() + 0.3
        del stream
        gc.collect()
    assert [reason for _, reason, _ in fake.ended] == ["cancelled"], "close() did not wait for the stop"
    timers = asyncio.Event()
    loop.call_at(deadline, timers.set)  # after the stream's own
    await timers.wait()
    assert not complaints


def test_a_closed_client_over_http() -> None:
    client = Client("http://127.0.0.1:1")
    client._http()
    client.close()
    with pytest.raises(errors.Cancelled, match="the client is closed; make a new one"):
        client.generate("x")


def test_an_answer_that_has_ended_stays_ended(fake: FakeTriton) -> None:
    client = Client(fake.grpc)
    stream = client.stream("SAY a b")
    assert len(list(stream)) == 1
    client.close()
    assert list(stream) == []


async def test_a_cancellation_in_the_turn_of_the_connection_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = AioChannel("127.0.0.1:1", credentials=PLAIN)
    connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(channel, "_settled", lambda: connected)
    task = asyncio.ensure_future(channel.connect(5.0))
    await asyncio.sleep(0)
    connected.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await channel.close()


def test_another_event_loop_is_one_line(fake: FakeTriton) -> None:
    client = AsyncClient(fake.grpc)

    async def one() -> str:
        return (await client.generate("SAY a")).text

    assert asyncio.run(one()) == "a"
    with pytest.raises(RuntimeError, match="belongs to the event loop of its first request"):
        asyncio.run(one())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_the_total_bounds_all_attempts_together(address: str) -> None:
    patient = Retry(attempts=20, backoff=0.2)
    start = time.monotonic()
    with Client(address, timeouts=Timeouts(total=0.6), retry=patient) as client, pytest.raises(errors.ConnectError):
        client.generate("x")

    async def same() -> None:
        async with AsyncClient(address, timeouts=Timeouts(total=0.6), retry=patient) as other:
            await other.generate("x")

    with pytest.raises(errors.ConnectError):
        asyncio.run(same())
    assert time.monotonic() - start < 4


def test_a_fork_has_ids_of_its_own_and_stops_nothing_of_its_parent(
    fake: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.step_ms = 5
    new_id = request_ids()
    with Client(fake.grpc) as client:
        stream = client.stream("x", Options(max_tokens=20))
        first = next(stream)
        ours = {new_id() for _ in range(3)}
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            assert ours.isdisjoint(new_id() for _ in range(9))
            stream._done, done = False, stream._done  # what a copy in the child would do when it is collected
            stream.cancel()
            stream._done = done
        assert len([first, *stream]) == 20


@pytest.mark.parametrize("concurrency", [0, -1, "3", None, 1.5])
async def test_no_concurrency_is_refused(concurrency: Any) -> None:
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(ValueError, match=f"concurrency: {concurrency!r}; give at least"),
    ):
        client.batch(["x"], concurrency=concurrency)
    async with AsyncClient("127.0.0.1:1") as other:
        with pytest.raises(ValueError, match=f"concurrency: {concurrency!r}; give at least 1"):
            await asyncio.wait_for(other.batch(["x"], concurrency=concurrency), 5)


@pytest.mark.parametrize("prompts", ["abc", b"abc", {"role": "user", "content": "x"}])
async def test_one_prompt_is_no_batch(prompts: Any) -> None:
    """A text would be asked letter by letter."""
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match=r"prompts: \w+ is not a list of prompts"):
        client.batch(prompts)
    async with AsyncClient("127.0.0.1:1") as other:
        with pytest.raises(ValueError, match="is not a list of prompts"):
            await other.batch(prompts)
