"""The speed of reading, from first tokens."""

from __future__ import annotations

from serving.gateway.core.share import prefill
from serving.gateway.core.share.prefill import PrefillMeter


def test_short_prompts_say_nothing() -> None:
    meter = PrefillMeter()
    meter.observe(20, 0.02)
    assert meter.seconds(1000) == 0 and meter.window == prefill.FIRST_WINDOW == 4 * meter.long


def test_the_window_follows_the_best_and_the_prediction_the_mean() -> None:
    meter = PrefillMeter()
    meter.observe(10_000, 1.0)
    meter.observe(10_000, 2.0)
    assert 4_900 <= meter.window <= 5_000
    assert 1.0 < meter.seconds(10_000) < 2.0
    for _ in range(50):
        meter.observe(10_000, 2.0)
    assert abs(meter.seconds(10_000) - 2.0) < 0.01 and meter.window < 3_000
