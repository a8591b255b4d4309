"""Allows a stream one reader at a time: each of two would get part of the answer without knowing it."""

from __future__ import annotations

import threading
from types import TracebackType


class OneReader:
    """``with`` it around each step. Raises ``RuntimeError`` while another thread or task is in one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("another thread or task is reading this stream: give each reader a stream of its own")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
