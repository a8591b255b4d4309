"""Lets a thread with long work yield the CPU to everything that somebody's next token waits for."""

from __future__ import annotations

import os
import threading

NICENESS = 5
LEAST_URGENT = 19


def give_way() -> None:
    """Lower the priority of the calling thread for good, below that of streams and short requests."""
    thread = threading.get_native_id()
    nice = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS  # never below what it has: that needs a privilege
    os.setpriority(os.PRIO_PROCESS, thread, min(LEAST_URGENT, nice))
