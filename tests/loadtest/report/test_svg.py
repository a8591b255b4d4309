"""What a reader must be able to tell apart in a chart."""

from __future__ import annotations

import re

import pytest

from loadtest.report.page import STYLE
from loadtest.report.svg import COLOURS, FEW, Chart, Series, render


def drawn(*series: Series) -> str:
    return render(Chart("t", "x", "y", series))


def test_a_dark_page_has_a_colour_of_its_own_for_each_series() -> None:
    dark = STYLE.partition("prefers-color-scheme:dark")[2]
    text = drawn(*(Series(f"s{n}", [(0, 1), (1, 2)]) for n in range(len(COLOURS))))
    for at, colour in enumerate(COLOURS):
        assert f"--c{at}:#" in dark and f"--c{at}:{colour}" not in dark
        assert f"stroke:var(--c{at},{colour})" in text


def test_lines_that_lie_on_each_other_are_told_apart_in_the_legend_too() -> None:
    text = drawn(Series("a", [(0, 1), (1, 2)]), Series("b", [(0, 1), (1, 2)], dashed=True))
    assert text.count("stroke-dasharray") == 1 and text.count("<i class=dashed") == 1


def test_few_dots_are_large() -> None:
    assert 'r="3.5"' in drawn(Series("a", [(0, 1)], "dots"))
    assert 'r="2"' in drawn(Series("a", [(n, n) for n in range(FEW + 1)], "dots"))


def test_an_axis_leaves_out_gaps_near_zero() -> None:
    """Tokens of one message are microseconds apart: three decades below the highest value are shown."""
    points = [(0.001, 0.3), (15.0, 0.9), (40.0, 1.0)]
    ticks = re.findall(r'text-anchor="middle">([\d.]+)<', render(Chart("t", "", "", [Series("s", points)], log_x=True)))
    assert ticks and min(map(float, ticks)) >= 0.04


@pytest.mark.parametrize("log", [True, False])
def test_charts_survive_any_points(log: bool) -> None:
    for points in ([], [(0.0, 0.0)], [(1.0, 1.0), (1.0, 1.0)], [(1e-9, 5.0), (1e9, 1e-9)]):
        svg = render(Chart("a < b", "x", "y", [Series("s", points), Series("t", points, "dots")], log_x=log, log_y=log))
        assert "a &lt; b" in svg and "nan" not in svg
