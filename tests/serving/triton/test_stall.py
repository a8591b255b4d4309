"""When an engine without steps is unready, and when it is dead."""

from __future__ import annotations

import pytest

from serving.runtimes.base import RuntimeStats
from serving.triton.stall import STEP_SECONDS, STEP_SECONDS_OF, StallWatch, limit_of


def look(watch: StallWatch, seconds: float, steps: int = 7, has_work: bool = True) -> None:
    for _ in range(int(seconds * 10)):
        watch.look(RuntimeStats(steps=steps), has_work, 0.1)


def test_no_step_with_work_is_unready_then_dead() -> None:
    watch = StallWatch(12.0)
    look(watch, 3.5)
    assert (watch.stalled, watch.dead) == (0, "")
    look(watch, 1.5)
    assert watch.stalled == 4 and not watch.dead
    look(watch, 8)
    assert watch.dead == "the engine hangs: no step for 13 s (STEP_SECONDS=12)"


def test_a_step_or_the_end_of_work_forgives() -> None:
    watch = StallWatch(12.0)
    look(watch, 11)
    look(watch, 0.1, steps=8)
    assert watch.stalled == 0
    look(watch, 11, steps=8)
    look(watch, 60, steps=8, has_work=False)
    assert watch.stalled == 0 and not watch.dead


def test_a_watcher_that_was_not_run_does_not_blame_the_engine() -> None:
    watch = StallWatch(12.0)
    look(watch, 1)
    watch.look(RuntimeStats(steps=7), True, 3600.0)
    assert watch.stalled == 0


@pytest.mark.parametrize(
    ("runtime", "asked", "step_ms", "limit"),
    [("vllm", 0, 15, STEP_SECONDS), ("openvino", 0, 15, STEP_SECONDS_OF["openvino"]), ("openvino", 30, 15, 30),
     ("simulated", 0, 20_000, 60), ("vllm", 0, 20_000, STEP_SECONDS)],
)  # fmt: skip
def test_the_limit(runtime: str, asked: float, step_ms: float, limit: float) -> None:
    assert limit_of(runtime, asked, step_ms) == limit
