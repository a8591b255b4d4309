"""Finds free ports for servers that must be given one before they start."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LOWEST = 10_000
KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Ports of localhost that were free a moment ago, all different.

    They lie below the kernel's ephemeral range: a port from that range could be given to another process, which
    connects or asks for port 0, before the server has started.
    """
    candidates = _outside_the_kernels_range()
    random.SystemRandom().shuffle(candidates)  # a seeded test must not find the ports of the one beside it
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in [*candidates, *[0] * count]:
            if len(found) == count:
                break
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                found.append(listener.getsockname()[1])
        return found


def _outside_the_kernels_range() -> list[int]:
    try:
        lowest_of_kernel = int(KERNELS_OWN.read_text().split()[0])
    except OSError:
        return []
    return list(range(LOWEST, lowest_of_kernel))
