"""Finds stop strings in a text that arrives in pieces, and leaks or loses no character however the text is cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feed pieces of text; get back what is safe to show.

    The string that is *completed* first wins (of several ending at the same character, the longest). That is the only
    rule that gives the same answer for every way of cutting the text into pieces.
    """

    __slots__ = ("_held", "_include", "_stops", "matched")

    def __init__(self, stops: Sequence[str], include_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include_stop
        self._held = ""  # tail that may still become a stop string
        self.matched = ""

    def push(self, text: str) -> str:
        """Text that can be shown now. After a match: everything up to it, and ``matched`` is set."""
        buffer = self._held + text
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            # A stop string ends in the new text: one within what is held back was skipped.
            start = buffer.find(stop, max(0, len(self._held) + 1 - len(stop)))
            if start >= 0:
                candidate = (start + len(stop), start, stop)
                best = candidate if best is None else min(best, candidate)
        if best is not None:
            end, start, self.matched = best
            self._held = ""
            return buffer[: end if self._include else start]
        return self._hold_back(buffer)

    def skip(self, text: str) -> str:
        """As ``push`` for text in which a complete stop string does not count; one that only begins in it does."""
        return self._hold_back(self._held + text)

    def flush(self) -> str:
        """What was held back, once it is known that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _hold_back(self, buffer: str) -> str:
        keep = self._overlap(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def _overlap(self, buffer: str) -> int:
        """Length of the longest tail of ``buffer`` that begins some stop string."""
        best = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(buffer)), best, -1):
                if buffer.endswith(stop[:size]):
                    best = size
                    break
        return best
