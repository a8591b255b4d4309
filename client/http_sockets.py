"""Finds the sockets on which an ``httpx.Client`` waits, to wake the threads that wait there.

httpx reveals a response's socket only once the headers have arrived, and the headers of a whole answer come with the
answer. The connection pool knows the socket earlier. With an httpx release whose pool looks different, the thread wakes
only when the server next writes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import httpx


def waiting(http: httpx.Client, request: httpx.Request | None = None) -> list[socket.socket]:
    """Copies, which outlive the client's own. ``request``: of this one alone."""
    found: list[socket.socket] = []
    with contextlib.suppress(AttributeError):
        client: Any = http
        for each in list(client._transport._pool._requests):
            if request is None or each.request.extensions is request.extensions:
                with contextlib.suppress(AttributeError, OSError):  # it waits for a connection, or has just ended
                    own = each.connection._connection._network_stream.get_extra_info("socket")
                    found.append(socket.socket(fileno=os.dup(own.fileno())))
    return found


def wake(sockets: list[socket.socket]) -> None:
    """Ends the reads that wait in them; closing a socket would not."""
    for each in sockets:
        with each, contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
