"""Horizontal bars as one SVG: inside a page, or with ``standalone`` as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from loadtest.report.svg import COLOURS

LABELS, SCALE, VALUES, HEIGHT, GAP = 420, 640, 70, 20, 8  # pixels: labels, longest bar, room for the figure, rows


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars under one label; ``values`` by series. Without series give one value under the name ""."""

    label: str
    values: Mapping[str, float]


def render_bars(
    title: str, groups: Sequence[BarGroup], *, unit: str = "", mark: float | None = None, standalone: bool = False
) -> str:
    """``mark``: a vertical line at this value. Empty for no bars."""
    values = [value for group in groups for value in group.values.values()]
    if not values:
        return ""
    scale = SCALE / (max(*values, mark or 0.0, 0.0) or 1.0)
    names = list(dict.fromkeys(name for group in groups for name in group.values))
    parts = _legend(names) if len(names) > 1 else []
    y = HEIGHT + GAP if parts else 0
    top = y
    for group in groups:
        parts.append(f'<text x="{LABELS - 8}" y="{y + 15}" text-anchor="end">{escape(group.label[:70])}</text>')
        for name, value in group.values.items():
            width, colour = max(1.0, value * scale), COLOURS[names.index(name) % len(COLOURS)]
            hint = escape(f"{group.label}: {name} {value:g}{unit}")
            parts.append(
                f'<rect x="{LABELS}" y="{y + 4}" width="{width:.1f}" height="14" fill="{colour}"><title>{hint}</title>'
                f'</rect><text x="{LABELS + width + 6:.1f}" y="{y + 15}">{figure(value)}{escape(unit)}</text>'
            )
            y += HEIGHT
        y += GAP
    if mark is not None:
        at = f"{LABELS + mark * scale:.1f}"
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{top}" y2="{y}"/>')
    return _frame(title, "".join(parts), LABELS + SCALE + VALUES, y, standalone)


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 8.0
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<path d="M{x:.0f} 4h12v12h-12z" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18:.0f}" y="15">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return parts


def _frame(title: str, body: str, width: int, height: int, standalone: bool) -> str:
    alone = ""
    if standalone:  # no style sheet around it: colours and fonts of its own
        alone = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        alone += 'font-family="sans-serif" font-size="11" style="background:#fff" '
    return f'<svg {alone}viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{body}</svg>\n'
