"""Files of API keys: the gRPC proxy checks them, clients read theirs."""

from __future__ import annotations

import re
from pathlib import Path

from contract import user_text

_KEY = re.compile(r"[\x21-\x7e]+")


def read(path: Path) -> tuple[str, ...]:
    """The keys of lines ``KEY``, ``NAME KEY`` or ``NAME KEY TOKENS_PER_MINUTE`` (the gateway's), in order.

    Raises ``ValueError`` with one line that names the line of the file, never the key."""
    try:
        lines = user_text.read(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', '') or 'not UTF-8'})") from None
    keys = [_key(line.split(), f"{path}:{number}") for number, line in enumerate(lines, 1) if _is_used(line)]
    if not keys:
        raise ValueError(f"{path} contains no key; make one with: openssl rand -hex 24 > {path}")
    return tuple(keys)


def checked(key: str, name: str) -> str:
    """A key that a header can hold, without the line's end of the file that it came from (``$(< key)``).

    Raises ``ValueError`` that says ``name``, never the key."""
    key = key.strip()
    if key and not _KEY.fullmatch(key):
        raise ValueError(
            f"{name}: the key contains a space, a line break or a non-ASCII character, which a header cannot carry"
        )
    return key


def _is_used(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _key(words: list[str], where: str) -> str:
    key = words[0] if len(words) == 1 else words[1]
    if key.startswith("sha256:"):
        raise ValueError(f"{where} holds the hash of a key; the key itself is needed here")
    if len(words) > 3 or not _KEY.fullmatch(key):
        raise ValueError(f"{where}: write `KEY` or `NAME KEY`, in printable ASCII characters")
    return key
