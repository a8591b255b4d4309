"""The value of `system_fingerprint`: two answers with the same `seed` may differ only if it differs."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from contract.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def fingerprint(engine: Path | None) -> str:
    """Of this server's version and of the engine, whose engine.json holds the hash of every file."""
    described = engine / "engine.json" if engine else None
    data = described.read_bytes() if described and described.is_file() else b""
    return f"fp_{hashlib.sha256(VERSION.encode() + data).hexdigest()[:10]}"
