"""Finds the field of a body whose value a strict reader of JSON does not take, and a lenient one does."""

from __future__ import annotations

import json
import math
from typing import Any

from contract.errors import cut, shown
from serving.gateway.schema.errors import ApiError


class _NoNumber(str):
    """NaN and Infinity, which Python and JavaScript write for JSON, or a numeral beyond all numbers, as it was sent."""


def misfit(body: bytes) -> ApiError | None:
    """The refusal of such a body, if one value is all that is wrong with it: half a surrogate pair, which JSON escapes
    can spell, bytes in another encoding, or no number. It is not nested too deeply."""
    try:
        text = body.decode("utf-8", "surrogateescape")
        value = json.loads(text, parse_constant=_NoNumber, parse_float=_number, parse_int=_number)
    except ValueError:
        return None
    if (found := _first(value, "")) is None:
        return None
    path, wrong = found
    if isinstance(wrong, _NoNumber):
        problem, remedy = f"{cut(wrong)} is no number of JSON", "send a finite one, or leave the field out"
    elif 0xDC80 <= ord(wrong) <= 0xDCFF and wrong.encode("utf-8", "surrogateescape") in body:
        problem, remedy = f"the byte {ord(wrong) - 0xDC00:#x} is not UTF-8", "send text encoded as UTF-8"
    else:
        problem, remedy = f"{shown(wrong)} is half a surrogate pair", "send valid Unicode"
    return ApiError(400, f"{path or 'the body'}: {problem}; {remedy}", param=path or None, code="invalid_json")


def _number(numeral: str) -> float | _NoNumber:
    number = float(numeral)
    return _NoNumber(numeral) if math.isinf(number) else number


def _first(value: Any, path: str) -> tuple[str, str] | None:
    """Where the first one is, and its wrong character or numeral."""
    if isinstance(value, _NoNumber):
        return path, value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return path, value[error.start]
        return None
    if isinstance(value, dict):  # a wrong key is its object's fault: it has no name that could be said
        parts = [(key, path) for key in value] + [(v, f"{path}.{k}" if path else k) for k, v in value.items()]
    else:
        parts = [(each, f"{path}[{at}]") for at, each in enumerate(value)] if isinstance(value, list) else []
    return next((found for part, name in parts if (found := _first(part, name))), None)
