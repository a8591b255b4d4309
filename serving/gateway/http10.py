"""For HTTP/1.0 clients an answer ends where the connection does: they know no chunked encoding, which uvicorn sends."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class _Unbounded(int):
    """The content length that uvicorn compares a body with, when any length is right."""

    def __lt__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return False

    def __sub__(self, other: object) -> _Unbounded:
        return self

    __hash__ = int.__hash__


class Http10Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which closes HTTP/1.0 connections already, without chunks for them."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0" and self.cycle is not None:
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = _Unbounded()
