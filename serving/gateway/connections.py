"""Connections that send or read slowly, or never: time-outs for each, and a bound on their number.

A connection without a complete request costs its client nothing, so it gives way: beyond the bound, the one that has
been incomplete for longest is closed, whether it is idle, sending its headers or sending its body.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import time
from dataclasses import dataclass, field
from typing import Any

from serving.gateway.schema.errors import ApiError
from serving.gateway.upgrades import OnlyHttp1Protocol

HEADER_SECONDS = 10.0  # for a request's headers to arrive
HEADER_BYTES = 64 * 1024
URL_BYTES = 16 * 1024  # httptools reads no URL of 64 KiB and more
KEEPALIVE_SECONDS = 120  # of an idle connection: longer than clients keep theirs (reqwest and Go's net/http: 90 s)
_AUTHORITY = re.compile(rb"[^\s/?#@\\]*")
SPARE_FILES = 128  # descriptors that are not clients' connections


class _HeadRefused(Exception):
    """Ends the reading of what follows a request that has been answered with an error."""


@dataclass
class ConnectionLimits:
    """What one worker's connections share. ``incomplete``: those without a complete request, the oldest first."""

    most: int
    write_seconds: float
    incomplete: dict[BoundedProtocol, None] = field(default_factory=dict)


def most_connections(wanted: int) -> int:
    """Raise the limit of open files to what ``wanted`` connections need; returns how many the process can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):  # a container may forbid it: the old limit stands
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else max(16, min(wanted, soft - SPARE_FILES))


class BoundedProtocol(OnlyHttp1Protocol):
    """uvicorn's protocol with time-outs for headers and for clients that do not read, and a bound on connections."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_bytes = 0
        self._fields_bytes = 0  # of the headers that are complete
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self.unheard_since: float | None = None  # while it has asked for nothing yet
        self._unanswered = 0  # requests whose heads have come and whose answers have not ended
        self._refusal: ApiError | None = None  # of what follows them, for when they are answered

    # incomplete requests
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.unheard_since = time.monotonic()
        limits = self.limits
        if len(self.connections) > limits.most:
            longest = next(iter(limits.incomplete), None)
            if longest is None:
                self._refuse(503, "too many connections; try again later", "too_many_connections")
                return
            longest.give_way()
        limits.incomplete[self] = None
        self._begin_head()

    def give_way(self) -> None:
        """Close it at once: nobody waits for unsent data."""
        self.limits.incomplete.pop(self, None)
        self.transport.abort()

    def _begin_head(self) -> None:
        self._end_head()
        self._in_head, self._head_bytes, self._fields_bytes = True, 0, 0
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._unanswered:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)
        elif self._head_bytes and not self.transport.is_closing():
            problem = f"the headers did not arrive within {HEADER_SECONDS:g} s; send them faster"
            self._refuse(408, problem, "timeout")
        elif not self.transport.is_closing():
            self.transport.close()  # it never asked for anything

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEADER_BYTES + URL_BYTES and not self._refusal:
            self._refuse_headers()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            problem = f"the URL exceeds {URL_BYTES} bytes; send what it holds in the body of a POST"
            self._refuse(414, problem, "url_too_long")
            raise _HeadRefused

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._fields_bytes += len(name) + len(value)
        if self._fields_bytes > HEADER_BYTES:
            self._refuse_headers()
            raise _HeadRefused

    def _refuse_headers(self) -> None:
        self._refuse(431, f"the headers exceed {HEADER_BYTES} bytes; send fewer", "headers_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        if self.is_offer:
            return
        self._check_host()
        self._end_head()
        self.unheard_since = None
        super().on_headers_complete()
        self._unanswered += 1

    def _check_host(self) -> None:
        """RFC 9112 3.2: one Host, and in HTTP/1.1 not none."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            self._refuse(400, f"{len(hosts)} Host headers; send one", "invalid_http")
            raise _HeadRefused
        if hosts and not _AUTHORITY.fullmatch(hosts[0]):
            self._refuse(
                400, f"the Host header {hosts[0][:80]!r} is not host:port; send the name in the URL", "invalid_http"
            )
            raise _HeadRefused

    def on_message_complete(self) -> None:
        if self.is_offer:
            return
        self.limits.incomplete.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal and not self._unanswered and not self.transport.is_closing():
            self._write_refusal(self._refusal)
        elif self.transport.is_closing():
            self._expect_reading()
        elif self.cycle is None or self.cycle.response_complete:
            self.limits.incomplete[self] = None

    # clients that do not read
    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def _expect_reading(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self._is_not_read)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _is_not_read(self) -> None:
        self._write_timer = None
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.limits.incomplete.pop(self, None)
        super().connection_lost(exc)

    # answers that no application gave
    def send_400_response(self, msg: str) -> None:
        if self._refusal:
            return  # in words of its own
        self._refuse(400, "this is not HTTP as the server reads it; see RFC 9112", "invalid_http")

    def _refuse(self, status: int, problem: str, code: str) -> None:
        """Requests that came before on this connection are answered first."""
        self._end_head()
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self._unanswered -= 1  # the fault is in the newest request's body
            if self.pipeline:
                self.pipeline.popleft()
        self._refusal = ApiError(status, problem, code=code)
        if not self._unanswered and not self.transport.is_closing():
            self._write_refusal(self._refusal)

    def _write_refusal(self, error: ApiError) -> None:
        body = error.body()
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (error.status, REASONS[error.status], len(body)) + body)
        self.transport.close()
        self._expect_reading()


REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def bounded(most: int, write_seconds: float) -> type[BoundedProtocol]:
    """A protocol class for uvicorn, whose connections share these limits."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": ConnectionLimits(most, write_seconds)})
