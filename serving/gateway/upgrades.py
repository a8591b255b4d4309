"""A request that offers another protocol besides (``Upgrade: h2c``) is answered in HTTP/1.1, as RFC 9110 7.8 allows.

Java's ``java.net.http`` offers HTTP/2 with every first request. httptools takes whatever follows such a head for the
other protocol, so the request's body was lost. Therefore such a head is parsed again without the offer.
"""

from __future__ import annotations

import sys

import httptools

from serving.gateway.http10 import Http10Protocol

OFFER = (b"upgrade", b"http2-settings")


class OnlyHttp1Protocol(Http10Protocol):
    """``is_offer`` in the parser's callbacks: they belong to a head that will come again."""

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type]
        self._received = self._again = b""

    @property
    def is_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def data_received(self, data: bytes) -> None:
        while data:  # one turn per offer in it
            self._received, self._again = data, b""
            super().data_received(data)
            data = self._again

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn calls it while it handles the parser's exception, which says where the head ends."""
        upgrade = sys.exc_info()[1]
        if not isinstance(upgrade, httptools.HttpParserUpgrade) or not self.is_offer:
            return
        rest = self._received[upgrade.args[0] :]
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(part for part in map(bytes.strip, value.split(b",")) if part.lower() not in OFFER)
            if name not in OFFER and (value or name != b"connection"):
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self._again = b"\r\n".join(lines) + b"\r\n\r\n" + rest
