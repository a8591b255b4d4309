"""A worker that leaves the port to others serves the connections that it already has, those in the queue too."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from serving.gateway.listening import listen
from serving.gateway.worker import _WorkerServer

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


async def answers_of_those_that_wait(run_dir: Path) -> list[bytes]:
    listener = listen("127.0.0.1", 0)
    server = _WorkerServer(uvicorn.Config(answer, lifespan="off", log_config=None), run_dir)
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


def test_connections_in_the_queue_are_answered_not_reset(tmp_path: Path) -> None:
    loop = uvloop.new_event_loop()
    found = loop.run_until_complete(asyncio.wait_for(answers_of_those_that_wait(tmp_path), 20))
    loop.close()
    assert len(found) == 5 and all(text.startswith(b"HTTP/1.1 200") for text in found)
    assert all(b"connection: close" in text.lower() for text in found)
