"""Line charts as inline SVG: no script, no network, readable in a mail attachment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from loadtest.report.words import ENGLISH, Say

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 22, 44
# At most on a logarithmic axis: the microseconds between tokens of one message would take all the room.
DECADES = 3
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#4a5568")
ON_DARK = ("#63b3ed", "#f6ad55", "#68d391", "#b794f4", "#f687b3", "#cbd5e0")  # their counterparts on a dark page
FEW = 300  # dots that are drawn larger
Points = Sequence[tuple[float, float]]


def colour(index: int) -> str:
    """The CSS colour of the series with this index; a page's style sheet may override it (``--c0`` …)."""
    at = index % len(COLOURS)
    return f"var(--c{at},{COLOURS[at]})"


@dataclass(frozen=True)
class Series:
    """``style``: line, steps or dots."""

    name: str
    points: Points
    style: str = "line"
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """``lines`` are horizontal or vertical marks: ("x" or "y", value, label)."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    y_max: float | None = None
    lines: Sequence[tuple[str, float, str]] = field(default=())


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    log: bool
    start: float  # pixel of low
    stop: float

    def pixel(self, value: float) -> float:
        low, high, value = (math.log10(max(v, 1e-9)) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, -0.02), 1.02) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            values = [m * 10.0**k for k in range(first, last + 1) for m in steps]
        else:
            step = _nice((self.high - self.low) / 5)
            values = [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]
        return [v for v in values if self.low * 0.999 <= v <= self.high * 1.001]


def render(chart: Chart, say: Say = ENGLISH) -> str:
    """One ``<figure>``: title and legend as text, which wraps on a phone, and an ``<svg>``. A chart without points
    says so."""
    title = escape(say(chart.title))
    points = [p for s in chart.series for p in s.points]
    if not points:
        return f'<figure><figcaption>{title}</figcaption><p class="none">{escape(say("nothing measured"))}</p></figure>'
    marks = {axis: [v for a, v, _ in chart.lines if a == axis] for axis in ("x", "y")}
    x = _axis([p[0] for p in points] + marks["x"], chart.log_x, LEFT, WIDTH - RIGHT, None)
    y = _axis([p[1] for p in points] + marks["y"], chart.log_y, HEIGHT - BOTTOM, TOP, chart.y_max)
    body = [*_grid(x, y), *_marks(chart, x, y, say)]
    for index, series in enumerate(chart.series):
        body.append(_draw(series, colour(index), x, y))
    body += _labels(chart, say)
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(body)}</svg>'
    return f"<figure><figcaption>{title}</figcaption>{_legend(chart.series, say)}{drawing}</figure>"


def _axis(values: list[float], log: bool, start: float, stop: float, forced: float | None) -> Axis:
    low, high = min(values), max(values)
    if log and low > 0 and high < 3 * low:  # too narrow for a log scale to have ticks
        return Axis(low - 0.1 * (high - low), high + 0.1 * (high - low), False, start, stop)
    if log:
        high = max(high, 1e-6)
        return Axis(max(low * 0.9, high / 10**DECADES), high * 1.1, True, start, stop)
    high = forced if forced is not None else (high * 1.05 if high > 0 else 1.0)
    return Axis(min(0.0, low), high if high > 0 else 1.0, False, start, stop)


def _draw(series: Series, paint: str, x: Axis, y: Axis) -> str:
    pixels = [(x.pixel(a), y.pixel(b)) for a, b in series.points]
    name = f"<title>{escape(series.name)}</title>"
    if series.style == "dots":
        radius, opacity = (3.5, 0.8) if len(pixels) <= FEW else (2, 0.55)
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius}"/>' for a, b in pixels)
        return f'<g style="fill:{paint}" fill-opacity="{opacity}">{name}{dots}</g>'
    if series.style == "steps":
        path = "".join(
            f"{'H' if k else 'M'}{a:.1f}{f'V{b:.1f}' if k else f',{b:.1f}'}" for k, (a, b) in enumerate(pixels)
        )
    else:
        path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in pixels)
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    return f'<path d="{path}" fill="none" style="stroke:{paint}" stroke-width="1.8"{dash}>{name}</path>'


def _grid(x: Axis, y: Axis) -> list[str]:
    parts, below = [], HEIGHT - BOTTOM + 14
    for value in y.ticks():
        at = y.pixel(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in x.ticks():
        at = x.pixel(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{below}" text-anchor="middle">{_number(value)}</text>')
    return parts


def _marks(chart: Chart, x: Axis, y: Axis, say: Say) -> list[str]:
    """Lines with their labels outside the curves: above the plot, or at its right end."""
    parts = []
    for axis, value, label in chart.lines:
        at = (x if axis == "x" else y).pixel(value)
        if axis == "x":
            where = f'x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
            right = at > (LEFT + WIDTH) / 2  # a label that would leave the drawing ends at its line instead
            text = f'x="{at:.1f}" y="{TOP - 6}" text-anchor="{"end" if right else "start"}"'
        else:
            where = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"'
            text = f'x="{WIDTH - RIGHT}" y="{at - 4:.1f}" text-anchor="end"'
        parts.append(f'<line class="mark" {where}/><text class="tick" {text}>{escape(say(label))}</text>')
    return parts


def _labels(chart: Chart, say: Say) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(say(chart.x))}</text>",
        f'<text class="tick" transform="translate(13,{middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(say(chart.y))}</text>",
    ]


def _legend(series: Sequence[Series], say: Say) -> str:
    if len(series) < 2:
        return ""
    names = (
        f'<span><i{" class=dashed" if one.dashed else ""} style="color:{colour(index)}"></i>'
        f"{escape(_name(one.name, say))}</span>"
        for index, one in enumerate(series)
    )
    return f'<div class="legend">{"".join(names)}</div>'


def _name(name: str, say: Say) -> str:
    """A series' name in the page's language. In ``grpc from schedule`` the lane stays as it is."""
    lane, _, rest = name.partition(" ")
    return f"{lane} {say(rest)}" if lane in ("grpc", "sse") and rest else say(name)


def _nice(step: float) -> float:
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
