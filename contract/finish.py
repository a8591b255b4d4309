"""Why a sequence ended, once for every step: the codes are indexes, the names are what callers read."""

from __future__ import annotations

from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]
FINISH_CODES: tuple[Literal["", "stop", "length", "cancelled", "error"], ...] = (
    "", "stop", "length", "cancelled", "error",
)  # fmt: skip  # "" at index 0: the sequence goes on
