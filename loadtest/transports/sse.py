"""OpenAI chat completions over server-sent events, read from the raw socket.

This module owns the socket, so that a message is stamped when its bytes arrive and a closed connection is never
mistaken for the end of a stream. ``sse_reader`` says what the bytes mean.
"""

from __future__ import annotations

import contextlib
from typing import Any

import gevent
import orjson
from gevent import socket

from contract.authority import authority
from loadtest.errors import TransportError
from loadtest.scenarios.base import Request
from loadtest.transports.arrival import keep_stamping, receive, stamped
from loadtest.transports.base import OnMessage, StreamEnd
from loadtest.transports.credentials import http_headers, tls_context
from loadtest.transports.dialect import Dialect
from loadtest.transports.sse_reader import SseReader
from loadtest.transports.tls import TlsSocket

BLOCK = 65536
CONNECT_TIMEOUT = 10.0
LINGER_S = 0.1  # a body that ends within this time after [DONE] leaves its connection reusable


class SseTransport:
    name = "sse"

    def __init__(
        self,
        host: str,
        port: int,
        model: str,
        *,
        base: str = "/v1",
        secure: bool = False,
        timeout: float,
        ignore_eos: bool,
        dialect: Dialect = Dialect(),  # noqa: B008  # a frozen value
    ) -> None:
        self._host, self._port, self._model, self._timeout = host, port, model, timeout
        self._dialect, self._ignore_eos = dialect, ignore_eos
        self._tls = tls_context() if secure else None
        self._idle: list[Any] = []
        keep_stamping()
        headers = {"host": authority(host, port), "content-type": "application/json", "accept": "text/event-stream"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers | http_headers()).items())
        self._head = f"POST {base}/chat/completions HTTP/1.1\r\n{lines}"

    def stream(self, request: Request, on_message: OnMessage) -> StreamEnd:
        reused, sock = True, self._take()
        reader = SseReader(on_message)
        try:
            with gevent.Timeout(self._timeout):
                if sock is None:
                    sock = self._connect()
                sock.sendall(self._encode(request))
                self._receive(sock, reader)
        except gevent.Timeout:
            raise TransportError("timeout", f"no end after {self._timeout:g} s") from None
        except OSError as error:
            if not reader.whole:  # a reset after the answer's end takes nothing from it
                kind = "cut_short" if reader.begun else "connect"
                raise TransportError(kind, f"{self._host}:{self._port}: {error}") from None
        finally:
            reused = reader.http.complete and not reader.http.should_close() and sock is not None
            if reused:
                self._idle.append(sock)
            elif sock is not None:
                sock.close()
        return reader.finished()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> Any:
        sock = socket.create_connection((self._host, self._port), timeout=CONNECT_TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            sock = TlsSocket(sock, self._tls, self._host)
        sock.settimeout(None)
        return sock

    def _take(self) -> Any:
        """An idle connection that the server has not closed, or None."""
        while self._idle:
            sock = self._idle.pop()
            sock.settimeout(0.0)
            try:
                sock.recv(1, 0 if self._tls else socket.MSG_PEEK)
            except BlockingIOError:
                sock.settimeout(None)
                return sock
            except OSError:
                pass  # gone: take the next
            sock.close()
        return None

    def _encode(self, request: Request) -> bytes:
        body = orjson.dumps(
            {
                "model": self._model,
                "messages": request.messages,
                "stream": True,
                **self._dialect.fields(request.max_tokens, request.seed, ignore_eos=self._ignore_eos),
            }
        )
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    @staticmethod
    def _receive(sock: Any, reader: SseReader) -> None:
        kernel = stamped(sock)
        while not (reader.done or reader.http.complete):
            data, stamp = receive(sock, BLOCK, kernel)
            if not data and not (reader.whole or reader.is_document):
                raise ConnectionError("the server closed the connection")
            if not data or not reader.feed(data, stamp):
                return
        with gevent.Timeout(LINGER_S, False), contextlib.suppress(OSError):
            while not reader.http.complete and (data := sock.recv(BLOCK)):
                reader.feed(data, 0.0)
