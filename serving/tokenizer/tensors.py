"""Typed reading of a request's tensors. Every refusal names the field, the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from contract.errors import InvalidRequest, shown

UINT64_MAX = 2**64 - 1


class Fields:
    """One request's inputs: name -> the tensor's flat list of values (bytes for STRING)."""

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values and len(self._values[name]) > 0

    def _one(self, name: str) -> Any:
        values = self._values[name]
        if len(values) != 1:
            raise InvalidRequest(name, f"expected one value, got {len(values)}; send a tensor of shape [1, 1]")
        return values[0]

    def text(self, name: str, default: str = "") -> str:
        return decoded(name, self._one(name)) if name in self else default

    def texts(self, name: str, most: int, longest: int) -> tuple[str, ...]:
        """Non-empty strings; an empty one is left out, as NVIDIA's clients send [""] for none."""
        if name not in self:
            return ()
        values = [decoded(name, value) for value in self._values[name]]
        values = [value for value in values if value]
        if len(values) > most:
            raise InvalidRequest(name, f"{len(values)} strings are too many; give at most {most}")
        for value in values:
            if len(value) > longest:
                raise InvalidRequest(name, f"{shown(value)} has {len(value)} characters; give at most {longest}")
        return tuple(values)

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._one(name)) if name in self else default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        if name not in self:
            return default
        value = int(self._one(name))
        if not low <= value <= high:
            raise InvalidRequest(name, f"{value} is out of range; give an integer between {low} and {high}")
        return value

    def integers(self, name: str, most: int, high: int) -> tuple[int, ...]:
        if name not in self:
            return ()
        values = tuple(int(value) for value in self._values[name])
        if len(values) > most:
            raise InvalidRequest(name, f"{len(values)} ids are too many; give at most {most}")
        for value in values:
            if not 0 <= value <= high:
                raise InvalidRequest(name, f"{value} is not a token id; ids lie between 0 and {high}")
        return values

    def number(self, name: str, default: float, low: float, high: float, above_low: bool = False) -> float:
        """A finite number in [low, high], or in (low, high] with ``above_low``."""
        if name not in self:
            return default
        value = float(self._one(name))
        if not math.isfinite(value) or not low <= value <= high or (above_low and value == low):
            interval = f"{'above' if above_low else 'between'} {low:g} and {'at most ' if above_low else ''}{high:g}"
            raise InvalidRequest(name, f"{value:g} is out of range; give a number {interval}")
        # FP32 carries 0.1 as 0.10000000149; the caller meant the short one
        return float(f"{value:.7g}")

    def numbers(self, name: str, low: float, high: float) -> tuple[float, ...]:
        values = tuple(float(value) for value in self._values[name]) if name in self else ()
        for value in values:
            if not low <= value <= high:  # also refuses what is not a number
                raise InvalidRequest(name, f"{value:g} is out of range; give numbers between {low:g} and {high:g}")
        return values


def decoded(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            name, f"byte {error.start} of {shown(bytes(value))} is not UTF-8; send text encoded as UTF-8"
        ) from None
