"""Waits until the launcher has restarted a Triton that died in the middle of an answer."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger("serving.gateway")
MOST_RESTARTS = 3  # that one answer outlives: it may be what ends the engine
NOTICE_SECONDS = 5.0  # within which the launcher says that a Triton which broke off is not ready (hung: after 3 s)
LOOK_SECONDS = 0.2  # between two looks at what it says


async def restarted(answer: str, is_back: Callable[[], Awaitable[bool | None]], goes_on: Callable[[], bool]) -> bool:
    """Whether Triton was gone and is back. ``is_back``: ``None`` when nobody will start it again; ``goes_on``: false
    ends the wait."""
    gone, noticed_by = False, time.monotonic() + NOTICE_SECONDS
    while goes_on():
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # many answers wait: not all at once
        back = await is_back()
        if back is None:
            return False
        if not back:
            if not gone:
                log.warning("a broken answer waits for a restart", extra={"request_id": answer})
            gone = True
        elif gone or time.monotonic() > noticed_by:
            return gone
    return False


class RestartWait:
    """One answer's waits for a Triton that its launcher starts again, each for at most ``seconds``."""

    def __init__(self, answer: str, is_back: Callable[[], Awaitable[bool | None]], seconds: float) -> None:
        self._answer, self._is_back, self._seconds = answer, is_back, seconds
        self.is_awaited = False
        self.over_at = 0.0  # monotonic: a restart is no silence of the engine that follows it

    async def awaited(self, goes_on: Callable[[], bool]) -> bool:
        """As ``restarted``."""
        until = time.monotonic() + self._seconds
        self.is_awaited = True
        try:
            return await restarted(self._answer, self._is_back, lambda: goes_on() and time.monotonic() < until)
        finally:
            self.is_awaited, self.over_at = False, time.monotonic()
