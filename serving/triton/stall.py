"""Notices an engine that has work but makes no steps; no closed pipe tells of a child that hangs."""

from __future__ import annotations

from serving.runtimes.base import RuntimeStats

# An engine with open sequences and no step for this long is dead. One step of a large model on a slow CPU takes tens of
# seconds; its process has a heartbeat of its own, so one that does not run at all is noticed much sooner.
STEP_SECONDS = 12.0
STEP_SECONDS_OF = {"openvino": 120.0}
UNREADY_PART = 3  # not ready from this part of the limit on
MOST_PER_LOOK = 0.5  # seconds that count between two looks: while we were not running, we could not see steps


def limit_of(runtime: str, asked: float, step_ms: float) -> float:
    """Seconds; ``asked`` is what the operator set, 0 for the default. A simulated step may be long on purpose."""
    default = STEP_SECONDS_OF.get(runtime, STEP_SECONDS)
    return asked or (max(default, 3 * step_ms / 1000) if runtime == "simulated" else default)


class StallWatch:
    """``look`` regularly; ``stalled`` and ``dead`` say what follows."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._progress: tuple[int, int, int] = (-1, -1, -1)
        self._silent = 0.0

    def look(self, stats: RuntimeStats, has_work: bool, elapsed: float) -> None:
        progress = (stats.steps, stats.generated_tokens, stats.prompt_tokens)
        if not has_work or progress != self._progress:
            self._silent = 0.0
        else:
            self._silent += min(elapsed, MOST_PER_LOOK)
        self._progress = progress

    @property
    def stalled(self) -> int:
        """Whole seconds without a step once they are too many to be called ready, else 0."""
        return int(self._silent) if self._silent >= self._limit / UNREADY_PART else 0

    @property
    def dead(self) -> str:
        if self._silent < self._limit:
            return ""
        return f"the engine hangs: no step for {self._silent:.0f} s (STEP_SECONDS={self._limit:g})"
