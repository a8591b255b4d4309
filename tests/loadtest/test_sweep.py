"""The search for the highest rate that meets the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.sweep import RateStep, conclusion, search


@given(st.floats(0.3, 200), st.floats(0.5, 8))
def test_sweep_closes_in_on_the_capacity(capacity: float, start: float) -> None:
    def run(rate: float) -> RateStep:
        return RateStep(rate, rate <= capacity, False, rate > capacity * 1.2, {})

    steps = search(run, start)
    met = max((s.rate for s in steps if s.met), default=None)
    if capacity >= start / 60:
        assert met is not None and met <= capacity <= met * 1.15 + 0.01
    assert len(steps) <= 18 and any(s.saturated for s in steps) and "saturates at" in conclusion(steps)


def test_sweep_stops_at_an_invalid_run_and_at_its_highest_rate() -> None:
    assert len(search(lambda rate: RateStep(rate, rate < 3, rate >= 4, False, {}), 1)) == 3
    assert [s.rate for s in search(lambda rate: RateStep(rate, True, False, False, {}), 1, 5)] == [1, 2, 4, 5]
    beyond = search(lambda rate: RateStep(rate, rate <= 1, False, rate > 4, {}), 1)
    assert beyond[-1].saturated and beyond[-1].rate == 4.5
