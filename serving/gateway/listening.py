"""The port all workers share."""

from __future__ import annotations

import socket
from typing import Any


def address_of(host: str, port: int) -> tuple[int, int, int, Any]:
    """Family, kind, protocol and address. ``localhost`` means 127.0.0.1, the address the launcher probes."""
    host = "127.0.0.1" if host == "localhost" else host
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, kind, proto, address


def hold(host: str, port: int) -> socket.socket:
    """Reserve the port without listening; while it is held, only sockets of ``listen`` can share it. Raises ``OSError``
    when it is in use, be it by another gateway."""
    family, kind, proto, address = address_of(host, port)
    with socket.socket(family, kind, proto) as probe:  # without SO_REUSEPORT
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    held = listen(host, port)
    # Only ``bind`` needed this option. Linux lets any sockets with it share a port while none of them listens.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return held


def listen(host: str, port: int) -> socket.socket:
    """A socket that shares the port with the other workers; the kernel distributes connections among them."""
    family, kind, proto, address = address_of(host, port)
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener
