"""Runs work on large bodies in one low-priority thread, so that at most one such job competes with the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving import background

T = TypeVar("T")
LARGE = 64 * 1024  # bytes of a body; what fits takes about a millisecond
_THREAD = ThreadPoolExecutor(1, "large-body", background.give_way)


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """``work()``, at once for a small body, else in the thread. ``size``: bytes."""
    if size <= LARGE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work)
