"""A caller's regular expression as llguidance takes it. Pure.

Dialects disagree about ``\\d``, ``\\w`` and ``\\s``: ECMAScript and xgrammar (vLLM's default) mean ASCII, Python
and Rust every script. What a mask allows is generated: a model whose likeliest token is forbidden takes
"🯸" for a digit. So each class is read as the narrowest of its dialects, and what is generated matches in all of them.
``\\D``, ``\\W``, ``\\S`` and negated classes keep Rust's reading, which excludes what any dialect would.
"""

from __future__ import annotations

import re

_LARK = re.compile(r"""(?P<kept>"(?:\\.|[^"\\\n])*"|//[^\n]*)|/(?P<regex>(?:\\.|[^/\\\n])+)/""")
_NARROW = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": r"[\t\n\x0B\x0C\r ]"}


def narrowed(pattern: str) -> str:
    """The pattern with ASCII classes, Python's ``{,n}`` as ``{0,n}``, and its ``\\A`` and ``\\Z`` around the whole as
    ``^`` and ``$``."""
    out: list[str] = []
    negated: list[bool] = []  # of each class that is open here
    at = 0
    while at < len(pattern):
        piece = _piece(pattern, at, inside=bool(negated))
        at += len(piece)
        if piece == "]" and negated:
            negated.pop()
        elif piece[0] == "[" and not piece.startswith("[:"):
            negated.append(piece.startswith("[^"))
        out.append(_converted(piece, start=at == len(piece), end=at == len(pattern), negated=negated))
    return "".join(out)


def narrowed_in_lark(grammar: str) -> str:
    """A Lark grammar whose terminals between slashes are narrowed."""
    return _LARK.sub(lambda m: m[0] if m["kept"] else f"/{narrowed(m['regex'])}/", grammar)


def _piece(pattern: str, at: int, *, inside: bool) -> str:
    """An escape, what opens a class (with the ``]`` that it may begin with), a POSIX class, or one character."""
    if pattern[at] == "\\":
        return pattern[at : at + 2]
    if pattern[at] != "[":
        return "{," if pattern.startswith("{,", at) and not inside else pattern[at]
    posix = pattern.find(":]", at) if inside and pattern.startswith("[:", at) else -1
    if posix >= 0:
        return pattern[at : posix + 2]
    end = at + 1 + pattern.startswith("^", at + 1)
    return pattern[at : end + pattern.startswith("]", end)]


def _converted(piece: str, *, start: bool, end: bool, negated: list[bool]) -> str:
    if piece == "{,":
        return "{0,"
    if piece == r"\A" and start:
        return "^"
    if piece in (r"\Z", r"\z") and end:
        return "$"
    if len(piece) == 2 and piece[0] == "\\" and not any(negated):
        return _NARROW.get(piece[1], piece)
    return piece
