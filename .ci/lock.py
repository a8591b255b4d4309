"""``make lock``: what set-up installs, with everything it brings along and hashes -> locks/EXTRA-PYTHON.txt.

A file holds what its extra adds to ``server``; all files of one Python agree. vLLM's own requirements would replace
pins of ``server`` (numpy 2, which Triton's Python stub does not load; an older llguidance), so there ``server``
overrides them: docs/decisions.md. Needs ``uv`` and the package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
EXTRAS = ("server", "loadtest", "dev", "otel")  # what set-up installs everywhere
GPU_EXTRAS = ("vllm",)  # what set-up installs on request, over the pins of server


def compiled(python: str, extras: tuple[str, ...], *options: str) -> str:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_35", "--no-header", "--no-annotate"]
    command += [part for extra in extras for part in ("--extra", extra)]
    return subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def blocks(text: str) -> dict[str, str]:
    """A requirement and its hashes, by the package's name."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {re.split(r"[^\w.-]", part, maxsplit=1)[0]: part for part in parts if part.strip()}


def pins(text: str) -> str:
    """The same requirements without hashes: a file of constraints or overrides."""
    return re.sub(r" \\$|^\s+--hash.*$", "", text, flags=re.MULTILINE)


def write(extra: str, python: str, requirements: dict[str, str]) -> None:
    path = ROOT / "locks" / f"{extra}-{python}.txt"
    path.write_text("".join(text for _, text in sorted(requirements.items())), encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(requirements)} packages")


def main() -> None:
    (ROOT / "locks").mkdir(exist_ok=True)
    for python in PYTHONS:
        everything = compiled(python, EXTRAS, "--generate-hashes")
        full = blocks(everything)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as agreed:
            agreed.write(pins(everything))
            agreed.flush()
            closure = {
                extra: set(blocks(compiled(python, tuple({"server", extra}), "--constraint", agreed.name)))
                for extra in EXTRAS
            }
            gpu = {
                extra: blocks(compiled(python, ("server", extra), "--override", agreed.name, "--generate-hashes"))
                for extra in GPU_EXTRAS
            }
        for extra in EXTRAS:
            names = closure[extra] - (closure["server"] if extra != "server" else set())
            write(extra, python, {name: full[name] for name in names})
        for extra, found in gpu.items():
            write(extra, python, {name: text for name, text in found.items() if name not in closure["server"]})


if __name__ == "__main__":
    main()
