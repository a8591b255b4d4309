"""Resumable build steps: a directory per step, named by what it was made from, with a stamp file written last.

A step with a stamp is not repeated; one without is removed and run again, so an interrupted build leaves nothing that
looks finished. The name contains a hash of the inputs, so another precision or context gets another directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.errors import BuildError

STAMP = "finished.json"
STOP_SECONDS = 15.0  # docker gives a container 10
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """``argv`` fills ``output``. ``argv`` is what runs; on a Docker host it is already wrapped in ``docker run``."""

    name: str
    argv: tuple[str, ...]
    output: Path
    resumes: bool = False  # continues from what an interrupted run left (a download)

    @property
    def stamp(self) -> Path:
        return self.output / STAMP

    def finished(self) -> bool:
        return self.stamp.is_file()

    def shell(self) -> str:
        return shlex.join(self.argv)


def directory(work: Path, name: str, *inputs: str) -> Path:
    """``work/<name>-<hash of inputs>``: other inputs, other directory."""
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:10]
    return work / f"{name}-{digest}"


def run(steps: Sequence[Step]) -> list[str]:
    """Run what is not finished, in order. Returns all command lines. Raises ``BuildError`` at the first failure."""
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.name}"
        if step.finished():
            log.info("%s: finished before, kept (%s)", title, step.output)
            continue
        log.info("%s\n  %s", title, step.shell())
        _execute(step)
    return [step.shell() for step in steps]


def seconds(steps: Sequence[Step]) -> float:
    """The total time of the finished steps, whenever they ran."""
    return sum(float(json.loads(step.stamp.read_text(encoding="utf-8"))["seconds"]) for step in steps)


def finish(argv: Sequence[str]) -> int:
    """Run a command to its end; its exit code. An interrupt is passed on first, so that a container stops too.

    Raises ``OSError`` when it cannot be started."""
    child = subprocess.Popen(argv)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
        child.kill()
        raise


def _execute(step: Step) -> None:
    if not step.resumes:
        shutil.rmtree(step.output, ignore_errors=True)
    step.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        code = finish(step.argv)
    except OSError as error:
        raise BuildError(f"step {step.name}: {step.argv[0]} cannot be started ({error.strerror})") from error
    if code:
        raise BuildError(
            f"step {step.name} failed with exit code {code}, its output is above: remove the cause and run the same "
            f"command again, finished steps are kept"
        )
    if not any(step.output.iterdir()):
        raise BuildError(f"step {step.name} wrote nothing to {step.output}: its output is above")
    partial = step.stamp.with_suffix(".partial")
    partial.write_text(
        json.dumps({"command": list(step.argv), "seconds": round(time.monotonic() - started, 1)}) + "\n",
        encoding="utf-8",
    )
    partial.replace(step.stamp)
