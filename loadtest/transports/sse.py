"""OpenAI chat completions over server-sent events, read from the raw socket.

geventhttpclient (llhttp, in C) parses the HTTP. This module owns the socket, so that a message is stamped when its
bytes arrive and a closed connection is never mistaken for the end of a stream. Tokens are counted by the server: by the
usage of each chunk where ``continuous_usage_stats`` is honoured; otherwise each chunk with content counts as one until
the final usage corrects the total. An answer is complete once it has given its finish reason or ``[DONE]``, however its
body or connection then ends.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import orjson
from gevent import socket
from geventhttpclient.response import HTTPResponse

from client import refusals
from client.sse import Events
from contract.authority import authority
from loadtest.errors import TransportError
from loadtest.scenarios.base import Request
from loadtest.transports.arrival import keep_stamping, receive, stamped
from loadtest.transports.base import OnMessage, StreamEnd
from loadtest.transports.credentials import http_headers, tls_context
from loadtest.transports.dialect import Dialect
from loadtest.transports.tls import TlsSocket

BLOCK = 65536
CONNECT_TIMEOUT = 10.0
DOCUMENT = 16_384  # bytes kept of an answer that is not a stream
LINGER_S = 0.1  # a body that ends within this time after [DONE] leaves its connection reusable
ANY_ZLIB = 47  # zlib's window bits for both of its encodings, gzip and deflate
TEXTS = ("content", "reasoning_content", "reasoning", "refusal")  # keys of a delta that bring tokens,
CALLS = ("tool_calls", "function_call")  # as these do


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
        reader = _SseReader(on_message)
        try:
            with gevent.Timeout(self._timeout):
                if sock is None:
                    sock = self._connect()
                sock.sendall(self._encode(request))
                self._receive(sock, reader)
        except gevent.Timeout:
            raise TransportError("timeout", f"no end after {self._timeout:g} s") from None
        except OSError as error:
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
    def _receive(sock: Any, reader: _SseReader) -> None:
        kernel = stamped(sock)
        while not (reader.done or reader.http.complete):
            data, stamp = receive(sock, BLOCK, kernel)
            if not data and not reader.whole:
                raise ConnectionError("the server closed the connection")
            if not data or not reader.feed(data, stamp):
                return
        with gevent.Timeout(LINGER_S, False), contextlib.suppress(OSError):
            while not reader.http.complete and (data := sock.recv(BLOCK)):
                reader.feed(data, 0.0)


class _Body(HTTPResponse):
    """Collects body bytes; the parser calls ``_on_body``."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.body = bytearray()
        self._unpack: Callable[[bytearray], bytes | bytearray] | None = None

    @property
    def complete(self) -> bool:
        """Whether the response has ended. An interim one (103 Early Hints) does not count."""
        return bool(self.message_complete) and self.status_code >= 200

    def _on_body(self, buf: bytearray) -> None:
        if self._unpack is None:  # some proxies compress although nobody asked them to
            packed = self.get("content-encoding") in ("gzip", "deflate")
            self._unpack = zlib.decompressobj(ANY_ZLIB).decompress if packed else lambda part: part
        self.body += self._unpack(buf)


class _SseReader:
    def __init__(self, on_message: OnMessage) -> None:
        self.http = _Body()
        self.end = StreamEnd()
        self._on_message = on_message
        self._events = Events()
        self._text: list[str] = []
        self._start = bytearray()  # of a body that may not be a stream
        self._tokens = 0  # counted by messages; the server's total may differ
        self.done = self.begun = self._events_seen = self._live = False  # _live: usage grows from chunk to chunk

    @property
    def whole(self) -> bool:
        """Whether the answer has come to its end."""
        return self.done or bool(self.end.finish_reason)

    def feed(self, data: bytes, now: float) -> bool:
        """False when the caller abandons the stream."""
        self.begun = True
        self.http.feed(data)
        if not self.http.headers_complete or self.http.status_code != 200:
            return True
        arrived = bytes(self.http.body)
        self.http.body.clear()
        if not self._events_seen:
            self._start += arrived[:DOCUMENT]
        for event in self._events.feed(arrived):
            if not self._event(event, now):
                self.end.left = True
                return False
        return True

    def _event(self, data: bytes, now: float) -> bool:
        self._events_seen = True
        if data == b"[DONE]":
            self.done = True
        if self.done or not data:
            return True
        try:
            chunk = orjson.loads(data)
            error = chunk if _is_error(chunk) else chunk.get("error")
        except (ValueError, AttributeError):
            raise _strange("not a JSON object", data) from None
        if error:
            status = str(error.get("status") or error.get("code")) if isinstance(error, dict) else ""
            raise _refusal(int(status) if status.isdecimal() else 500, error)
        before, choices = self._tokens, chunk.get("choices") or ()
        try:
            content = self._content(choices)
            count = self._usage(chunk.get("usage") or {})
        except (AttributeError, TypeError, ValueError):
            raise _strange("not a chunk of a chat", data) from None
        # With a finish reason, or without choices, the usage is the total and says nothing about this chunk.
        self._live = self._live or bool(count and choices and not self.end.finish_reason)
        if self._live and count and choices:
            self._tokens = count
        elif content:
            self._tokens += 1
        if not self.end.counted:
            self.end.completion_tokens = self._tokens
        return self._on_message(now, self._tokens) if self._tokens > before else True

    def _content(self, choices: Any) -> bool:
        """Whether these choices bring a part of the answer."""
        content = False
        for choice in choices:
            delta = choice.get("delta") or {}
            content = content or any(delta.get(name) for name in TEXTS + CALLS)
            self._text.append(_text(delta.get("content")))
            self.end.finish_reason = choice.get("finish_reason") or self.end.finish_reason
        return content

    def _usage(self, usage: Mapping[str, Any]) -> int:
        """Output tokens so far; 0 if this usage does not say: some servers send zeros until the end."""
        end, count = self.end, int(usage.get("completion_tokens") or 0)
        end.prompt_tokens = usage.get("prompt_tokens") or end.prompt_tokens
        end.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or end.cached_tokens
        if count:
            end.counted, end.completion_tokens = True, count
        return count

    def finished(self) -> StreamEnd:
        self.end.text = "".join(self._text)
        if self.end.left:
            return self.end
        if self.http.status_code != 200:
            raise self._refused()
        if not self._events_seen:
            if "error" in (answer := self._document()):
                raise _refusal(500, answer["error"])
            kind = self.http.get("content-type") or "no Content-Type"
            raise TransportError("not_a_stream", f"the server answered {kind}, not text/event-stream")
        if not self.whole:
            raise TransportError("cut_short", "the stream ended without a finish_reason or [DONE]")
        if self.end.finish_reason in ("error", "cancelled"):
            raise TransportError(f"finish_{self.end.finish_reason}", "the server gave up on the stream")
        return self.end

    def _document(self) -> dict[str, Any]:
        """The body as a JSON object; {} if it is not one."""
        try:
            return dict(orjson.loads(bytes(self._start or self.http.body)))
        except (ValueError, TypeError):
            return {}

    def _refused(self) -> TransportError:
        document, body = self._document(), bytes(self.http.body)
        told = next((document[name] for name in ("error", "detail", "message") if document.get(name)), None)
        status, there = self.http.status_code, self.http.get("location")
        said, answered = told or body[:200].decode("utf-8", "replace"), f"HTTP {status}"
        answered += f", moved to {there}" if there else ""
        refusal = _refusal(status, said)
        return TransportError(refusal.kind, f"{answered}: {refusal.message}" if said else answered, status)


def _strange(what: str, data: bytes) -> TransportError:
    return TransportError("protocol", f"an event is {what}: {data[:80].decode('utf-8', 'replace')}")


def _text(content: Any) -> str:
    """A delta's text. Mistral's reasoning models send it in parts."""
    return "".join(part.get("text") or "" for part in content) if isinstance(content, list) else content or ""


def _is_error(chunk: dict[str, Any]) -> bool:
    """vLLM's old errors say so in ``object``; others come as an event named ``error`` and have only a message."""
    return chunk.get("object") == "error" or (
        not ("choices" in chunk or "usage" in chunk) and bool(chunk.get("message") or chunk.get("detail"))
    )


def _refusal(status: int, error: Any) -> TransportError:
    """``error``: OpenAI's error object, or what other servers put in its place."""
    error = error if isinstance(error, dict) else {"message": error}
    message, code = str(error.get("message") or error), str(error.get("code") or "")
    code = "" if code.isdecimal() else code  # vLLM repeats the status here
    return TransportError(refusals.from_http(status, message, code=code).code, message, status)
