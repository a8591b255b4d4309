"""Sends one HTTP answer over plain ASGI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Receive, Send

from serving.gateway.schema.errors import ApiError

LINGER_SECONDS = 2.0  # how long to discard a refused upload, so that the client can read the answer
Headers = Sequence[tuple[bytes, bytes]]


class Gone(Exception):
    """The client has closed its connection."""


class Writer:
    """Sends one answer. ``started``: the status has been sent. The times let the gateway detect stalled clients."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self.status = 0
        self.writing_since: float | None = None
        self.sent_at = time.monotonic()

    @property
    def started(self) -> bool:
        return self.status != 0

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status
        all_headers = [*headers, (b"x-request-id", self.request_id.encode())] if self.request_id else headers
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def event(self, data: bytes) -> None:
        """Send events; the first call also sends the status and headers."""
        self.writing_since = time.monotonic()
        if not self.status:
            await self._start(200, _SSE)
        await self._send({"type": "http.response.body", "body": on_their_lines(data), "more_body": True})
        self.writing_since, self.sent_at = None, time.monotonic()

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def whole(self, body: bytes, *, status: int = 200, more: Headers = ()) -> None:
        size = str(len(body)).encode()
        await self._start(status, [(b"content-type", b"application/json"), (b"content-length", size), *more])
        await self._send({"type": "http.response.body", "body": body})

    async def error(self, error: ApiError, body: bytes, receive: Receive) -> None:
        """An error as the answer; nothing may have been sent yet."""
        more = [(b"retry-after", str(error.retry_after).encode())] if error.retry_after else []
        more += [(b"www-authenticate", b"Bearer")] if error.status == 401 else []
        if not error.close:
            await self.whole(body, status=error.status, more=more)
            return
        await self._refuse_upload(error.status, body, receive, more)

    async def _refuse_upload(self, status: int, body: bytes, receive: Receive, more: list[tuple[bytes, bytes]]) -> None:
        """Answer at once, then discard incoming data for a moment: a connection reset would lose the answer."""
        size = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", b"application/json"), (b"connection", b"close"), size, *more])
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        until = time.monotonic() + LINGER_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(receive(), left)
            except asyncio.TimeoutError:
                break
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        await self.end()


def on_their_lines(events: bytes) -> bytes:
    """Events whose texts end no line for anybody. Server-sent events know CR and LF only, but many clients split as
    ``str.splitlines`` does (httpx's ``iter_lines``, httpx-sse before 0.4.2), and would cut a JSON text in two."""
    if b"\xe2\x80" in events or b"\xc2\x85" in events:
        for line_end, escaped in _LINE_ENDS:
            events = events.replace(line_end, escaped)
    return events


_LINE_ENDS = tuple((chr(code).encode(), f"\\u{code:04x}".encode()) for code in (0x85, 0x2028, 0x2029))
_SSE: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),  # CDNs and Node's proxies would hold it back to compress it
    (b"x-accel-buffering", b"no"),  # keeps nginx from buffering the stream
)
