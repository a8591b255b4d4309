"""Ctrl-C while `make serve` builds an engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.paths import ROOT

SLOW_BUILDER = """
import signal, sys, time
def interrupted(*_):
    print("interrupted: cleaned up", file=sys.stderr, flush=True); time.sleep(0.6); sys.exit(130)
signal.signal(signal.SIGINT, interrupted)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as contract.program
print("building", flush=True); time.sleep(60)
"""
LAUNCHER = """
import sys
from serving.launch import engine
sys.executable, engine.CLEAN_SECONDS = sys.argv[1], float(sys.argv[2])
engine._build("x")
"""


@pytest.mark.parametrize("whom", ["terminal", "launcher"])
def test_ctrl_c_while_an_engine_is_built_is_one_line_and_leaves_no_builder(tmp_path: Path, whom: str) -> None:
    """A terminal tells both; a supervisor that tells the launcher alone is not kept waiting for the builder."""
    builder = tmp_path / "python"
    builder.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec {sys.executable} -c '{SLOW_BUILDER}'\n")
    builder.chmod(0o755)
    patience = "30" if whom == "terminal" else "0.3"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(builder), patience], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert launcher.stdout is not None and launcher.stdout.readline() == "building\n"
    (os.killpg if whom == "terminal" else os.kill)(launcher.pid, signal.SIGINT)
    _, printed = launcher.communicate(timeout=60)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    if whom == "terminal":
        assert (launcher.returncode, printed) == (130, "interrupted: cleaned up\n")
    else:
        assert "KeyboardInterrupt" in printed, "main() says that it stopped"
