"""Threads for long work that nobody's next token waits for."""

from __future__ import annotations

import os
import threading

NICENESS = 5
LEAST_URGENT = 19


def give_way() -> None:
    """From now on streams and short requests get the processor before the calling thread."""
    thread = threading.get_native_id()
    nice = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS  # never below what it has: that needs a privilege
    os.setpriority(os.PRIO_PROCESS, thread, min(LEAST_URGENT, nice))
