"""Ends answers to HTTP/1.0 clients with the connection, because they do not know uvicorn's chunked encoding."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class _Unbounded(int):
    """A content length that equals every body's, for uvicorn's comparison."""

    def __lt__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return False

    def __sub__(self, other: object) -> _Unbounded:
        return self

    __hash__ = int.__hash__


class Http10Protocol(HttpToolsProtocol):
    """uvicorn's protocol without chunks for HTTP/1.0 clients, whose connections it closes anyway."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0" and self.cycle is not None:
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = _Unbounded()
