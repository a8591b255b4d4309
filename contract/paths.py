"""Where this checkout lies. Only code that runs inside the repository may use it; the installed client does not."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
