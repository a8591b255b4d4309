"""Large bodies are worked on one at a time, by a thread that gives way."""

from __future__ import annotations

import asyncio
import os
import threading

from serving.gateway.core.off_loop import LARGE, off_loop


def here() -> tuple[int, int]:
    thread = threading.get_native_id()
    return thread, os.getpriority(os.PRIO_PROCESS, thread)


def test_large_ones_share_a_nice_thread_and_small_ones_stay() -> None:
    async def all_of_them() -> list[tuple[int, int]]:
        return await asyncio.gather(*(off_loop(size, here) for size in (LARGE, LARGE + 1, LARGE + 1)))

    small, large, another = asyncio.run(all_of_them())
    assert small == here() and large == another
    assert large[0] != small[0] and large[1] > small[1]
