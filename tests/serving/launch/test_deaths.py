"""Three deaths in ten minutes are answered at once; then pauses grow, and shrink when it has been quiet."""

from __future__ import annotations

from serving.launch.deaths import LONGEST_PAUSE, WINDOW, Deaths


def test_pauses_grow_to_a_bound() -> None:
    deaths = Deaths()
    assert [deaths.add(float(now)) for now in range(9)] == [0, 0, 0, 5, 10, 20, 40, LONGEST_PAUSE, LONGEST_PAUSE]
    assert len(deaths) == 9


def test_old_deaths_do_not_count() -> None:
    deaths = Deaths()
    for now in range(5):
        deaths.add(float(now))
    assert deaths.add(WINDOW + 5) == 0.0 and len(deaths) == 1
