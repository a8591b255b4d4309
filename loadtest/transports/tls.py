"""TLS over a plain socket that stays readable with ``recvmsg``, so that its packets keep the kernel's stamps.

Python's own ``SSLSocket`` reads the connection inside OpenSSL, where ancillary data is lost. Here OpenSSL only turns
bytes into bytes (``ssl.MemoryBIO``) and this class moves them: a message is stamped when the packet that completed its
record arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import ssl
from gevent.lock import RLock

BLOCK = 262_144


class TlsSocket:
    """The part of a socket's interface that the transports use. Reads and writes may come from different greenlets."""

    def __init__(self, sock: Any, context: Any, name: str) -> None:
        """Shakes hands within the socket's time limit. Raises ``OSError``."""
        self._socket = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._sending = RLock()  # records must leave in the order they were made
        self._told: list[Any] = []  # ancillary data of the last read from the connection
        self._space = 0
        try:
            self._when_read(self._tls.do_handshake)
        except OSError:
            sock.close()
            raise

    def recvmsg(self, size: int, space: int = 0) -> tuple[bytes, list[Any], int, Any]:
        self._space = space
        return self.recv(size), self._told, 0, None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Empty at the end, orderly or not."""
        try:
            return bytes(self._when_read(lambda: self._tls.read(size)))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def sendall(self, data: bytes) -> None:
        with self._sending:
            self._tls.write(data)
            self._flush()

    def _when_read(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                data, self._told, _, _ = self._socket.recvmsg(BLOCK, self._space)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            finally:
                self._flush()  # a handshake's last words, an alert

    def _flush(self) -> None:
        with self._sending:
            if data := self._out.read():
                self._socket.sendall(data)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._socket.setsockopt(level, option, value)

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()
