"""Receives bytes and the time of their arrival, by the kernel's stamp where there is one: reading late adds no latency.

Linux stamps received packets on request (``SO_TIMESTAMPNS``, for TCP since 4.14) and gives a read the stamp of its last
byte: https://docs.kernel.org/networking/timestamping.html. So messages share a stamp only if the reader is so late that
the next one is there already. TLS has stamps too (``tls``); on other systems a message is stamped after the read.
"""

from __future__ import annotations

import struct
import time
from functools import cache
from typing import Any

from gevent import socket

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python has no name for it
TIMESPEC = struct.Struct("@qq")  # seconds and nanoseconds since 1970
SPACE = socket.CMSG_SPACE(TIMESPEC.size)
LATE_MAX_NS = 60_000_000_000  # a larger delay means that somebody set the clock


@cache
def keep_stamping() -> Any:
    """A socket that keeps the kernel's stamping on. Switching it on, which the first socket does, takes a moment."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stamped(one)
    return one


def stamped(sock: Any) -> bool:
    """Ask for stamps. False where ``receive`` must look at the clock itself."""
    if not hasattr(sock, "recvmsg"):
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def receive(sock: Any, size: int, kernel: bool) -> tuple[bytes, float]:
    """At most ``size`` bytes and the arrival of the last, by ``time.monotonic``. ``kernel``: what ``stamped`` said."""
    if not kernel:
        return sock.recv(size), time.monotonic()
    data, ancillary, _, _ = sock.recvmsg(size, SPACE)
    now, late = time.monotonic(), 0
    for _, kind, value in ancillary:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(value)
            late = time.time_ns() - seconds * 1_000_000_000 - nanoseconds
    return data, now - late * 1e-9 if 0 < late < LATE_MAX_NS else now
