"""How much structure a JSON body holds, counted in its bytes before anything is parsed.

Parsing and validating hold the interpreter, and with it every stream of the worker, for a time that grows with the
number of values, not with the length of their texts. 8 MB of one text take 6 ms, 8 MB of `{}` take half a minute.
"""

from __future__ import annotations

import re

from contract import nesting
from serving.gateway.schema.errors import ApiError

MAX_OBJECTS = 16_384  # objects and lists
MAX_STRINGS = 65_536  # texts, keys included
MAX_ELEMENTS = 1_048_576  # commas: token ids, mostly
_CANNOT_EXCEED = MAX_OBJECTS  # bytes


def check(body: bytes) -> None:
    """Raises ``ApiError`` 400 for a body with more structure than a conversation has. Stops counting there."""
    if len(body) <= _CANNOT_EXCEED or not _may_exceed(body):
        return
    for what, most, found in zip(_NAMES, _MOST, _count(body), strict=True):
        if found > most:
            raise ApiError(
                400, f"the body holds more than {most} {what}; send a smaller request", code="body_too_complex"
            )


def check_depth(body: bytes) -> None:
    """Raises ``ApiError`` 400 naming the field that is nested too deeply, also where nothing closes it."""
    if body.count(b"{") + body.count(b"[") <= nesting.MAX_DEPTH:
        return
    depth, name = 0, b""
    for token in _TOKENS.finditer(body):
        kind = token[0][:1]
        if kind == b'"':
            name = token[0].strip(b'"') if depth == 1 else name
        else:
            depth += 1 if kind in b"{[" else -1
        if depth > nesting.MAX_DEPTH + 1:  # the body itself is one level more
            raise _too_deep(name.decode(errors="replace")[:100])


def _too_deep(name: str) -> ApiError:
    problem = f"{name or 'the body'}: {nesting.TOO_DEEP}; nest less"
    return ApiError(400, problem, param=name or None, code="body_too_complex")


_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]', re.DOTALL)
_NAMES = ("objects and lists", "texts and keys", "list elements")
_MOST = (MAX_OBJECTS, MAX_STRINGS, MAX_ELEMENTS)
_Counts = tuple[int, int, int]


def _may_exceed(body: bytes) -> bool:
    """False for almost every body: not even with the punctuation inside its texts does it reach a limit."""
    objects, strings, elements = _outside(body, 0, len(body))
    return objects > MAX_OBJECTS or strings // 2 > MAX_STRINGS or elements > MAX_ELEMENTS


def _outside(body: bytes, start: int, end: int) -> _Counts:
    objects = body.count(b"{", start, end) + body.count(b"[", start, end)
    return objects, body.count(b'"', start, end), body.count(b",", start, end)


def _count(body: bytes) -> _Counts:
    """Objects, strings and commas outside of strings, up to the first that exceeds its limit."""
    objects = strings = elements = at = 0
    while objects <= MAX_OBJECTS and strings <= MAX_STRINGS and elements <= MAX_ELEMENTS:
        opening = body.find(b'"', at)
        end = len(body) if opening < 0 else opening
        some, _, commas = _outside(body, at, end)
        objects, elements = objects + some, elements + commas
        if opening < 0:
            break
        strings += 1
        at = _after_string(body, opening)
    return objects, strings, elements


def _after_string(body: bytes, opening: int) -> int:
    """Index behind the string that opens there; the body's length when nothing closes it."""
    at = opening
    while (at := body.find(b'"', at + 1)) >= 0:
        backslash = at
        while body[backslash - 1] == 0x5C:
            backslash -= 1
        if (at - backslash) % 2 == 0:
            return at + 1
    return len(body)
