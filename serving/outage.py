"""Why Triton does not answer and when it is expected back: a file that the launcher writes and gateway workers read."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

UNKNOWN_SECONDS, LONGEST_SECONDS = 5, 60  # to wait when the end is unknown or overdue, and at most (as OpenAI's SDK)


class Outage(NamedTuple):
    """``why`` is "" when all is well. ``back_at``: when requests are expected to be answered again, on the monotonic
    clock, which all processes of a host share; 0: unknown."""

    why: str = ""
    back_at: float = 0.0

    def dump(self) -> str:
        return f"{self.back_at} {self.why}" if self.why else ""

    @classmethod
    def load(cls, text: str) -> Outage:
        """Raises ``ValueError`` for text that ``dump`` has not written."""
        if not text:
            return cls()
        back_at, _, why = text.partition(" ")
        return cls(why, float(back_at))

    def retry_after(self, now: float | None = None) -> int:
        """Whole seconds after which a request is worth another try."""
        left = self.back_at - (time.monotonic() if now is None else now)
        return min(LONGEST_SECONDS, math.ceil(left)) if left > 0 else UNKNOWN_SECONDS
