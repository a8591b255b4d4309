"""A Ctrl-C while one program of ours starts another."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from contract.handover import ctrl_c_waits
from contract.paths import ROOT

PROGRAM = """
import os, signal
print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("it waits", flush=True)
import contract.program
print("it was lost", flush=True)
"""


def test_ctrl_c_waits_in_a_program_that_is_started_until_it_can_take_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with ctrl_c_waits():
        ended = subprocess.run(
            [sys.executable, str(tmp_path / "program.py")], env={"PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "True\nit waits\n", "")
