"""``versions.toml`` as Python values: the only place that names a container tag or a pinned engine version."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from contract.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Tables of simple values."""
    loaded: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return loaded


@cache
def versions() -> dict[str, dict[str, Any]]:
    return read_toml(ROOT / "versions.toml")


def pinned(engine: str, key: str = "version") -> str:
    """``pinned("tensorrt_llm")`` → ``1.2.1``."""
    return str(versions()[engine][key])


def version_tuple(text: str) -> tuple[int, ...]:
    """``1.2.1`` → (1, 2, 1); a release candidate counts as its release, so 1.4.0rc1 is at least 1.4."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
