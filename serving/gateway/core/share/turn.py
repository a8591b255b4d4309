"""One call on its way to the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class TurnOwner(Protocol):
    """What a turn reports its progress to."""

    def was_read(self, turn: EngineTurn, now: float) -> None: ...

    def leave(self, turn: EngineTurn, used: float, answers: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """What one call brings to the engine. Tokens; ``prompt`` is an estimate, ``most``: of one answer, 0 unknown.

    ``streams``: its first token is seen when it is made, not at the end of the answer."""

    tenant: int
    sequences: int
    prompt: int
    most: int = 0
    streams: bool = True
    priority: int = 0  # higher goes sooner


LEAD_SECONDS = 1e6  # by which a request seems to have waited longer for each level of its priority


class EngineTurn:
    """One call's turn at the engine: ``come`` waits for it, ``leave`` ends it, however far it came."""

    __slots__ = (
        "_future",
        "_scheduler",
        "_unread",
        "began",
        "is_long",
        "order",
        "pledged",
        "prefill_ahead",
        "read",
        "work",
    )

    def __init__(self, scheduler: TurnOwner, work: Work, now: float, *, is_long: bool) -> None:
        """``is_long``: its prompt would keep the engine from reading others."""
        self.work, self.is_long = work, is_long
        self.order = now - work.priority * LEAD_SECONDS  # of one tenant's calls, the smallest goes first
        self.began = 0.0  # monotonic seconds; 0: it still waits
        self.read = 0.0  # when its first token came
        self.prefill_ahead = self._unread = 0
        self.pledged = 0.0
        self._scheduler = scheduler
        self._future: asyncio.Future[None] | None = None

    async def come(self) -> None:
        """Raises what ``cancel`` was given."""
        if not self.began:
            self._future = asyncio.get_running_loop().create_future()
            await self._future

    def cancel(self, reason: Exception) -> None:
        if self._future and not self._future.done():
            self._future.set_exception(reason)

    def begin(self, pledged: float, ahead: int, now: float) -> None:
        """Called by the scheduler only."""
        self.began, self.pledged = now, pledged
        self.prefill_ahead, self._unread = ahead, self.work.prompt
        if self._future and not self._future.done():
            self._future.set_result(None)

    def first_token(self) -> None:
        if not self.read:
            self.read = time.monotonic()
        if self._unread:
            self._scheduler.was_read(self, self.read)

    def leave(self, used: int | None, answers: Sequence[int] = ()) -> None:
        """``used``: tokens; ``None``: unknown, so what was pledged counts. ``answers``: lengths of those that ended."""
        self._scheduler.leave(self, self.pledged if used is None else used, answers)

    def take_unread(self) -> int:
        unread, self._unread = self._unread, 0
        return unread
