"""The language of programs that talk to people: Chinese where the locale is Chinese, otherwise English."""

from __future__ import annotations

import os
from collections.abc import Mapping


def language(environment: Mapping[str, str] = os.environ) -> str:
    """``zh`` or ``en``, from the first of LC_ALL, LC_MESSAGES and LANG that is set (POSIX's order)."""
    locale = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"
