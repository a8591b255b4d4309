"""The attempts at one prompt of an answer: which comes next when one breaks off, after which tokens, and when none."""

from __future__ import annotations

import logging
from collections.abc import Callable

from client.errors import ClientError
from client.sequences import ONE_SEQUENCE, breaks_off, refuses_to_resume, unresumed
from serving.gateway.core.restart import MOST_RESTARTS, RestartWait

log = logging.getLogger("serving.gateway")


class Attempts:
    """When its Triton dies, an answer goes on at another one, or at the same one after its restart where the client has
    been told of some tokens."""

    def __init__(self, request_id: str, servers: int, restart: RestartWait, stopped: Callable[[], object]) -> None:
        """``stopped`` tells whether the answer has been ended from outside."""
        self._request_id, self._servers, self._restart, self._stopped = request_id, servers, restart, stopped
        self._others = servers - 1  # to turn to until the next token
        self._number = self._restarts = 0
        self._broken: ClientError | None = None  # what ended the first attempt that broke off
        self.ids: list[int] = []  # of the answer so far: the next attempt resumes after them

    @property
    def request_id(self) -> str:
        """Of the next attempt: the server may still know the last one."""
        return f"{self._request_id}+{self._number}" if self._number else self._request_id

    async def again(self, error: ClientError, ids: list[int] | None, *, has_several: bool) -> bool:
        """Wait until the next attempt may begin; false when ``error`` ends the answer. Raises the ``ClientError`` that
        says why it is not resumed.

        ``ids``: of the answer so far, ``None`` where it cannot go on. ``has_several``: some of several sequences.
        """
        if self._broken and refuses_to_resume(error):
            raise unresumed(self._broken, str(error)) from error
        if breaks_off(error) and has_several:
            raise unresumed(error, ONE_SEQUENCE) from error
        if not breaks_off(error) or self._stopped() or ids is None:
            return False
        self._others = (self._servers - 1 if len(ids) > len(self.ids) else self._others) - 1
        self.ids = ids
        if self._others < 0 and not await self._restarted():
            return False
        self._number, self._broken = self._number + 1, self._broken or error
        log.warning("a broken answer goes on", extra={"request_id": self._request_id, "tokens": len(ids)})
        return True

    async def _restarted(self) -> bool:
        self._restarts += 1
        may_wait = bool(self.ids) and self._restarts <= MOST_RESTARTS
        return may_wait and await self._restart.awaited(lambda: not self._stopped())
