"""Finds the field of a body whose text is not valid Unicode."""

from __future__ import annotations

import json
from typing import Any

from contract import nesting
from contract.errors import shown
from serving.gateway.schema.errors import ApiError


def misfit(body: bytes) -> ApiError | None:
    """The refusal of a body that a strict reader does not take, if all that is wrong with it is such a text: half a
    surrogate pair, which JSON escapes can spell, or bytes in another encoding."""
    try:
        value = json.loads(body.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    found = None if nesting.too_deep(value) else _first(value, "")
    if found is None:
        return None
    path, half = found
    byte = 0xDC80 <= ord(half) <= 0xDCFF and half.encode("utf-8", "surrogateescape") in body
    problem = f"the byte {ord(half) - 0xDC00:#x} is not UTF-8" if byte else f"{shown(half)} is half a surrogate pair"
    remedy = "send text encoded as UTF-8" if byte else "send valid Unicode"
    name = path or "the body"
    return ApiError(400, f"{name}: {problem}; {remedy}", param=path or None, code="invalid_json")


def _first(value: Any, path: str) -> tuple[str, str] | None:
    """Where the first one is, and its wrong character."""
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
