"""Leaving a stream over HTTP while somebody reads it: from another thread, from another task, by closing the client."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from client import AsyncClient, Client, errors

PIECE_SECONDS = 0.02
AT_ONCE = 1.0  # the answer would take 20 s


class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gone = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        event = json.dumps({"choices": [{"index": 0, "text": "a ", "finish_reason": None}]})
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(f"data: {event}\n\n".encode())
                time.sleep(PIECE_SECONDS)
        self.gone.set()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def slow() -> Iterator[str]:
    Slow.gone.clear()
    with served(Slow) as url:
        yield url


class Silent(http.server.BaseHTTPRequestHandler):
    """Has the request, and no answer for it: not even headers."""

    asked = threading.Event()
    gone = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.set()
        with contextlib.suppress(OSError):
            self.rfile.read(1)  # the end of the connection
        self.gone.set()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def silent() -> Iterator[str]:
    Silent.asked.clear()
    Silent.gone.clear()
    with served(Silent) as url:
        yield url


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_stream_is_left_before_the_servers_headers(silent: str, how: str) -> None:
    """They come with a queue's end, and a whole answer's with the answer."""
    ended: list[object] = []
    with Client(silent) as client:
        stream = client.stream("x")

        def read() -> None:
            try:
                ended.append(list(stream))
            except errors.Cancelled:
                ended.append("cancelled")

        reader = threading.Thread(target=read)
        reader.start()
        assert Silent.asked.wait(10)
        (stream.cancel if how == "cancel" else client.close)()
        reader.join(10)
        assert ended == [[] if how == "cancel" else "cancelled"] and Silent.gone.wait(10)


def test_closing_the_client_ends_a_wait_for_a_whole_answer(silent: str) -> None:
    ended: list[str] = []
    client = Client(silent)

    def ask() -> None:
        try:
            client.generate("x")
        except errors.Cancelled as error:
            ended.append(str(error))

    reader = threading.Thread(target=ask)
    reader.start()
    assert Silent.asked.wait(10)
    client.close()
    reader.join(10)
    assert ended == ["the client was closed before the answer had ended"] and Silent.gone.wait(10)


def test_cancel_from_another_thread_ends_the_loop(slow: str) -> None:
    with Client(slow) as client:
        stream = client.stream("x")
        next(stream)
        threading.Timer(0.1, stream.cancel).start()
        start = time.monotonic()
        assert {chunk.text for chunk in stream} <= {"a "}
        assert time.monotonic() - start < AT_ONCE and list(stream) == []
        assert Slow.gone.wait(AT_ONCE)


async def test_cancel_from_another_task_ends_the_loop(slow: str) -> None:
    async with AsyncClient(slow) as client:
        stream = client.stream("x")
        await stream.__anext__()
        asyncio.get_running_loop().call_later(0.1, stream.cancel)
        start = time.monotonic()
        assert {chunk.text async for chunk in stream} <= {"a "}
        assert time.monotonic() - start < AT_ONCE and [chunk async for chunk in stream] == []
    assert await asyncio.to_thread(Slow.gone.wait, AT_ONCE)


async def test_a_cancelled_task_is_told(slow: str) -> None:
    async with AsyncClient(slow) as client:
        stream = client.stream("x")

        async def read() -> list[str]:
            return [chunk.text async for chunk in stream]

        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(Slow.gone.wait, AT_ONCE)


def test_closing_the_client_is_told_to_the_reader(slow: str) -> None:
    client = Client(slow)
    stream = client.stream("x")
    next(stream)
    client.close()
    with pytest.raises(errors.Cancelled, match="the client was closed before the answer had ended"):
        list(stream)
