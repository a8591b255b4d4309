"""Reads text files as people's editors write them: a byte order mark is not text, and only a newline ends a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract import nesting


def read(path: Path) -> str:
    """Raises ``OSError`` and ``UnicodeDecodeError``."""
    return path.read_text(encoding="utf-8-sig")


def json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """(number of the line, its value) of JSONL. Raises ``ValueError`` that names the line.

    ``str.splitlines`` would also split at U+2028 and U+0085, which JSON allows within a string."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, nesting.loads(line)
            except ValueError as error:
                reason = str(error).replace("line 1 column", "column")
                raise ValueError(f"line {number}: {reason}") from None
