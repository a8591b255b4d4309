"""Three deaths in a row are answered at once; then pauses grow, until it has run for a while."""

from __future__ import annotations

from serving.launch.deaths import LONGEST_PAUSE, STEADY, WINDOW, Deaths


def test_pauses_grow_to_a_bound() -> None:
    deaths = Deaths()
    assert [deaths.add(float(now)) for now in range(9)] == [0, 0, 0, 5, 10, 20, 40, LONGEST_PAUSE, LONGEST_PAUSE]
    assert len(deaths) == 9


def test_old_deaths_do_not_count() -> None:
    deaths = Deaths()
    for now in range(5):
        deaths.add(float(now))
    assert deaths.add(WINDOW + 5) == 0.0 and len(deaths) == 1


def test_what_has_run_for_a_while_starts_again_at_once() -> None:
    """Four hangs in ten minutes, each noticed after some seconds, are no crash loop."""
    deaths = Deaths()
    assert [deaths.add(STEADY * turn) for turn in range(9)] == [0.0] * 9 and len(deaths) == 9


def test_the_pause_itself_is_no_time_of_running() -> None:
    deaths = Deaths()
    pauses, now = [], 0.0
    for _ in range(8):
        pauses.append(deaths.add(now))
        now += pauses[-1] + STEADY - 1
    assert pauses == [0, 0, 0, 5, 10, 20, 40, LONGEST_PAUSE]
    assert deaths.add(now + 1) == 0.0
