"""Many open chat streams, read by one thread with little work per event; when each ended and how."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from tests.conftest import Server

TAIL = 4096  # bytes kept of each stream: its last event


@dataclass
class OpenStream:
    """``ended``: monotonic seconds, 0 while it runs. ``pause``: the longest, in seconds. ``port``: the client's, by
    which a worker's streams are found."""

    connection: socket.socket
    port: int
    tail: bytearray = field(default_factory=bytearray)
    received: int = 0
    first: float = 0.0
    last: float = 0.0
    pause: float = 0.0
    ended: float = 0.0

    @property
    def error(self) -> str:
        """What its end said; empty for a whole answer."""
        lines = [line for line in bytes(self.tail).decode(errors="replace").splitlines() if line.startswith("data: ")]
        last = lines[-1].removeprefix("data: ") if lines else ""
        if last == "[DONE]":
            return ""
        return str(json.loads(last)["error"]["message"]) if last.startswith('{"error"') else "connection lost"


class OpenStreams:
    """``with OpenStreams(server, 100) as streams``: all have got their first token; they are closed at the end."""

    def __init__(self, server: Server, count: int, max_tokens: int = 20_000) -> None:
        body = {
            "model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": max_tokens,
            "ignore_eos": True, "stream": True,
        }  # fmt: skip
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        self._request = head.encode() + b"Content-Type: application/json\r\n\r\n" + data
        self._selector = selectors.DefaultSelector()
        self._closing = False
        self.all = [self._open(server.gateway_port) for _ in range(count)]
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> OpenStreams:
        self._thread.start()
        deadline = time.monotonic() + 60
        while not all(stream.first for stream in self.all):
            assert time.monotonic() < deadline and not self.ended, [stream.error for stream in self.ended[:1]]
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._thread.join(5)
        for stream in self.all:
            stream.connection.close()

    def _open(self, port: int) -> OpenStream:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(self._request)
        connection.setblocking(False)
        stream = OpenStream(connection, connection.getsockname()[1])
        self._selector.register(connection, selectors.EVENT_READ, stream)
        return stream

    def _read(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.1):
                self._take(key.data)

    def _take(self, stream: OpenStream) -> None:
        try:
            data = stream.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        stream.received += len(data)
        stream.tail += data
        del stream.tail[:-TAIL]
        if b'"content":' in data:
            stream.first = stream.first or now
            stream.pause = max(stream.pause, now - (stream.last or now))
            stream.last = now
        if not data or b"data: [DONE]" in data or b'data: {"error"' in data:
            stream.ended = now
            self._selector.unregister(stream.connection)

    @property
    def ended(self) -> list[OpenStream]:
        return [stream for stream in self.all if stream.ended]
