"""The messages about values out of their field's range; "" for a value in range.

The client uses them before it sends a request, the tokenizer step for whatever arrives."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float as _FP32

from contract.errors import shown
from contract.fields import INT32_MAX, Bound, Field

Range = tuple[float, float]


def known(low: Bound | None, high: Bound | None) -> Range:
    """The range where no checkpoint is at hand: as wide as the tensor where the vocabulary is the bound."""
    return (low if isinstance(low, int | float) else 0, high if isinstance(high, int | float) else INT32_MAX)


def integer(value: int, among: Range) -> str:
    low, high = among
    return "" if low <= value <= high else f"{shown(value)} is out of range; give an integer between {low} and {high}"


def number(value: float, among: Range, above_low: bool) -> str:
    low, high = among
    if low <= value <= high and not (above_low and value == low):
        return ""
    interval = f"{'above' if above_low else 'between'} {low:g} and {'at most ' if above_low else ''}{high:g}"
    return f"{_short(value)} is out of range; give a number {interval}"


def numbers(values: Sequence[float], among: Range) -> str:
    low, high = among
    wrong = [value for value in values if not low <= value <= high]  # also what is not a number
    return f"{_short(wrong[0])} is out of range; give numbers between {low:g} and {high:g}" if wrong else ""


def count(field: Field, values: Sequence[object]) -> str:
    what = "strings" if field.tensor == "STRING" else "values"
    many = field.most is not None and len(values) > field.most
    return f"{len(values)} {what} are too many; give at most {field.most}" if many else ""


def length(field: Field, text: str) -> str:
    if field.longest is None or len(text) <= field.longest:
        return ""
    if field.repeated:
        return f"{shown(text)} has {len(text)} characters; give at most {field.longest}"
    return f"{len(text)} characters are too many; give at most {field.longest}"


def _short(value: float) -> str:
    """In seven digits where these are all that FP32 has of it (0.1 comes as 0.10000000149), or else in its own."""
    short = f"{value:.7g}" if isinstance(value, float) else ""
    return short if short and _FP32(float(short)).value == value else shown(value)
