"""Limits how deeply the lists and objects of a request are nested, because the code that walks them is recursive."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100
TOO_DEEP = f"nested too deeply: at most {MAX_DEPTH} levels of lists and objects"


def loads(text: str | bytes) -> Any:
    """``json.loads`` that raises ``ValueError`` for deep nesting as well as for invalid JSON."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if too_deep(value):
        raise ValueError(TOO_DEEP)
    return value


def too_deep(value: Any) -> bool:
    """Whether a JSON value is nested too deeply. Takes time in proportion to its elements."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one) if isinstance(part, list | dict)]
        if not level:
            return False
    return True


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
