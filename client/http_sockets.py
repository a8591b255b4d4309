"""The sockets of the requests that an ``httpx.Client`` waits for, to wake the threads that wait there.

httpx tells a response's socket only when its headers are there, and a whole answer's headers come with the answer. Its
pool knows before. With a release whose pool looks otherwise, the thread wakes when the server next writes.
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
