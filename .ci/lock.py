"""``make lock``: what set-up installs, with everything it brings along and hashes -> locks/EXTRA-PYTHON.txt.

A file holds what its extra adds to ``server``; all files of one Python agree. Needs ``uv`` and the package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
EXTRAS = ("server", "loadtest", "dev")  # what set-up installs


def compiled(python: str, extras: tuple[str, ...], *options: str) -> str:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_35", "--no-header", "--no-annotate"]
    command += [part for extra in extras for part in ("--extra", extra)]
    return subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def blocks(text: str) -> dict[str, str]:
    """A requirement and its hashes, by the package's name."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {re.match(r"[\w.-]+", part)[0]: part for part in parts if part.strip()}  # type: ignore[index]


def main() -> None:
    (ROOT / "locks").mkdir(exist_ok=True)
    for python in PYTHONS:
        everything = compiled(python, EXTRAS, "--generate-hashes")
        full = blocks(everything)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write(re.sub(r" \\$|^\s+--hash.*$", "", everything, flags=re.MULTILINE))
            constraints.flush()
            closure = {
                extra: set(blocks(compiled(python, tuple({"server", extra}), "--constraint", constraints.name)))
                for extra in EXTRAS
            }
        for extra in EXTRAS:
            names = closure[extra] - (closure["server"] if extra != "server" else set())
            path = ROOT / "locks" / f"{extra}-{python}.txt"
            path.write_text("".join(full[name] for name in sorted(names)), encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {len(names)} packages")


if __name__ == "__main__":
    main()
