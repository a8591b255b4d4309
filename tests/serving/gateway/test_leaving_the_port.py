"""A worker that leaves the port to others serves the connections that it already has, those in the queue too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
import uvloop

from serving.gateway import worker
from serving.gateway.connections import bounded
from serving.gateway.listening import listen

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


class Drained:
    """Of a gateway, what a worker's end asks for: nothing is open."""

    async def lame_duck(self, at_once: asyncio.Event) -> None: ...

    async def drain(self) -> None: ...


async def answers_of_new_connections(run_dir: Path) -> list[bytes]:
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(answer, http=bounded(100, 30.0), lifespan="off", log_config=None)
    server = worker._WorkerServer(config, run_dir)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    while len(server.server_state.connections) < 3:
        await asyncio.sleep(0.01)
    clients += [socket.create_connection(listener.getsockname()) for _ in range(3)]  # in the queue
    signalled = asyncio.Event()
    signalled.set()
    drain = asyncio.create_task(worker._drain_when(signalled, signalled, cast(Any, Drained()), server))
    while len(server.server_state.connections) < 6:
        await asyncio.sleep(0.01)
    for client in clients:
        client.sendall(GET)
    found = await asyncio.gather(*(asyncio.to_thread(client.recv, 1000) for client in clients))
    for client in clients:
        client.close()
    await drain
    await serving
    return found


async def answers_of_those_that_wait(run_dir: Path) -> list[bytes]:
    listener = listen("127.0.0.1", 0)
    server = worker._WorkerServer(uvicorn.Config(answer, lifespan="off", log_config=None), run_dir)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
    for client in clients:
        client.sendall(GET)
    server.leave_port()  # the loop has had no turn since they came
    found = await asyncio.gather(*(asyncio.to_thread(client.recv, 1000) for client in clients))
    for client in clients:
        client.close()
    server.should_exit = True
    await serving
    return found


def run(answers: Coroutine[Any, Any, list[bytes]]) -> list[bytes]:
    loop = uvloop.new_event_loop()
    found = loop.run_until_complete(asyncio.wait_for(answers, 20))
    loop.close()
    return found


def test_connections_in_the_queue_are_answered_not_reset(tmp_path: Path) -> None:
    found = run(answers_of_those_that_wait(tmp_path))
    assert len(found) == 5 and all(text.startswith(b"HTTP/1.1 200") for text in found)
    assert all(b"connection: close" in text.lower() for text in found)


def test_a_drained_worker_answers_connections_that_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several workers has nothing open and ends at once. The kernel went on to give it connections, and reset
    those that it had not answered."""
    monkeypatch.setattr(worker, "LATE_SECONDS", 30.0)
    found = run(answers_of_new_connections(tmp_path))
    assert len(found) == 6 and all(text.startswith(b"HTTP/1.1 200") for text in found), found
    assert all(b"connection: close" in text.lower() for text in found)
