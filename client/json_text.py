"""Turns what a caller passes into JSON, in the same way for every transport."""

from __future__ import annotations

from typing import Any

import orjson

from contract.errors import InvalidRequest, shown


def dumped(name: str, value: Any) -> bytes:
    """Raises ``InvalidRequest`` naming the field ``name`` for what JSON in UTF-8 cannot hold."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        problem = f"{shown(value)} cannot be sent as JSON ({error}); give plain values in valid Unicode"
        raise InvalidRequest(name, problem) from None
