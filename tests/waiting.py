"""Wait for a condition, never for a time: a busy machine takes longer, an idle one no longer than it must."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(check: Callable[[], object], seconds: float = 60.0, why: Callable[[], object] = lambda: "") -> float:
    """Seconds until ``check()`` is true; fails after ``seconds``, with ``why()``."""
    start = time.monotonic()
    while not check():
        assert time.monotonic() - start < seconds, f"not within {seconds:g} s {why()}"
        time.sleep(0.005)
    return time.monotonic() - start
