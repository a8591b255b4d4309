"""Results on disk: all files of a result, or none of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.errors import LoadtestError


def fresh(kind: str) -> Path:
    """A new directory ``reports/KIND-<time>``, one each for runs that end in the same second. ``LoadtestError``."""
    name = f"reports/{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        for again in itertools.count(1):
            path = Path(name if again == 1 else f"{name}-{again}")
            with contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                return path
    except OSError as error:
        raise LoadtestError(f"out: {name} cannot be made ({error.strerror}): name another directory") from None
    raise AssertionError("an endless count ended")


def write(directory: Path, files: Mapping[str, str]) -> None:
    """``files``: name -> text. ``directory`` is made; what it holds under these names is replaced when all is written.

    Raises ``LoadtestError``: a full disk, a directory that may not be written to."""
    partial = {directory / f".{name}.partial": directory / name for name in files}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in zip(partial, files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
        for path, final in partial.items():
            path.replace(final)
    except OSError as error:
        for path in partial:
            with contextlib.suppress(OSError):
                path.unlink()
        names = " and ".join(files)
        raise LoadtestError(
            f"out: {names} cannot be written to {directory} ({error.strerror}): make room, or name another directory"
        ) from None


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
