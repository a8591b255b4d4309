"""How deep the lists and objects of a request may lie in each other: who walks them does so recursively."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100
TOO_DEEP = f"lists and objects lie more than {MAX_DEPTH} deep in each other"


def loads(text: str | bytes) -> Any:
    """As ``json.loads``. Raises ``ValueError`` for what is no JSON or too deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if too_deep(value):
        raise ValueError(TOO_DEEP)
    return value


def too_deep(value: Any) -> bool:
    """Of a JSON value. Takes time in proportion to its elements."""
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
