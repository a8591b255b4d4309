"""Why a sequence ended, defined once for all steps: the codes are indexes, the names are what callers read."""

from __future__ import annotations

from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error", "repetition"]
FINISH_CODES: tuple[Literal["", "stop", "length", "cancelled", "error", "repetition"], ...] = (
    "", "stop", "length", "cancelled", "error", "repetition",
)  # fmt: skip  # "" at index 0: the sequence goes on
