"""The speed of reading, from first tokens and whole answers."""

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


def test_whole_answers_tell_it_less_their_steps() -> None:
    """2,000 tokens a second, 15 ms a step: no stream was ever seen."""
    meter = PrefillMeter()
    meter.observe_whole(4000, 2.0 + 100 * 0.015, made=100)
    assert meter.mean == 0, "how much of it were steps is unknown"
    for _ in range(30):
        meter.observe_whole(20, 50 * 0.015, made=50)
    for _ in range(30):
        meter.observe_whole(4000, 2.0 + 100 * 0.015, made=100)
    assert abs(meter.mean - 2000) < 20


def test_a_short_whole_answer_to_a_long_prompt_tells_it_at_once() -> None:
    meter = PrefillMeter()
    meter.observe_whole(4000, 2.0, made=1)
    assert meter.mean == 2000


def test_steps_of_streams_count_for_whole_answers() -> None:
    meter = PrefillMeter()
    meter.observe_steps(100, 1.5)
    meter.observe_whole(4000, 2.0 + 100 * 0.015, made=100)
    assert abs(meter.mean - 2000) < 1


def test_whole_answers_that_were_mostly_steps_say_nothing() -> None:
    meter = PrefillMeter()
    meter.observe_steps(100, 1.8)
    meter.observe_whole(4000, 2.0, made=100)
    assert meter.mean == 0
