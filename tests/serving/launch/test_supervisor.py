"""The end of a session: who is waited for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.launch.supervisor import Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    """One whose Triton runs, with its processes' ids in the run directory."""
    one = Supervisor.__new__(Supervisor)
    one._run_dir, one._signals = tmp_path, 0
    for index in range(4):
        (tmp_path / f"detokenizer-{index}.pid").write_text(str(os.getpid()))
    return one


@pytest.fixture
def triton() -> Iterator[subprocess.Popen[bytes]]:
    """It unloads for a long time: SIGTERM alone does not end it."""
    with subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60 & wait; wait"], process_group=0) as process:
        yield process
        process.kill()


def ended() -> str:
    with subprocess.Popen(["true"]) as process:
        pass
    return str(process.pid)


def stop(supervisor: Supervisor, triton: subprocess.Popen[bytes], seconds: float) -> float:
    start = time.monotonic()
    supervisor._stop(triton, start + seconds)
    assert triton.returncode == -9
    return time.monotonic() - start


def test_a_stop_waits_for_no_process_that_has_nothing_to_close(
    supervisor: Supervisor, triton: subprocess.Popen[bytes]
) -> None:
    for model in ("engine", "tokenizer"):
        (supervisor._run_dir / f"{model}.pid").write_text(ended())
    assert stop(supervisor, triton, 30) < 20


def test_a_stop_gives_the_engine_its_time(supervisor: Supervisor, triton: subprocess.Popen[bytes]) -> None:
    (supervisor._run_dir / "engine.pid").write_text(str(os.getpid()))
    (supervisor._run_dir / "tokenizer.pid").write_text(ended())
    assert stop(supervisor, triton, 0.5) >= 0.5
