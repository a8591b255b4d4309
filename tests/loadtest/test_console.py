"""What a run says reaches the terminal, whatever that terminal is."""

from __future__ import annotations

import os
import subprocess
import sys

from contract.paths import ROOT

SAY = [sys.executable, "-c", "from loadtest import console; console.show('217 µs ×'); console.show('done')"]


def test_a_terminal_that_knows_no_such_letter_shows_another() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    said = subprocess.run(SAY, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert said.stdout == "217 ?s ?\ndone\n" and said.stderr == ""


def test_a_reader_that_is_gone_ends_no_run() -> None:
    with subprocess.Popen(SAY, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
