"""A process that holds on ends with the launcher, also while it holds its own interpreter."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from contract.lifeline import NAME
from contract.paths import ROOT

HOLDS = "import ctypes, sys, pathlib; from contract import lifeline; lifeline.hold_on(pathlib.Path(sys.argv[1])); "
STUB = HOLDS + "print('up', flush=True); ctypes.PyDLL(None).sleep(60)"
LAUNCHER = (
    "import subprocess, sys, time, pathlib; from contract.lifeline import Lifeline; "
    "line = Lifeline(pathlib.Path(sys.argv[1])); stubs = [subprocess.Popen([sys.executable, '-c', *sys.argv[2:], "
    "sys.argv[1]], stdout=subprocess.PIPE) for _ in range(2)]; [stub.stdout.readline() for stub in stubs]; "
    "first = stubs.pop(); first.kill(); first.wait(); print('up', flush=True); time.sleep(60)"
)


def test_a_process_without_its_interpreter_ends_with_its_launcher(tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), STUB], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout and launcher.stdout.readline() == "up\n"
    stubs = psutil.Process(launcher.pid).children()
    assert len(stubs) == 1, "the other one's end, which was killed, ended nobody"
    launcher.kill()
    launcher.wait()
    assert psutil.wait_procs(stubs, 10)[1] == []


def test_who_comes_too_late_ends_at_once_and_who_has_no_launcher_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS + "print('goes on')", str(tmp_path)]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert alone.stdout == "goes on\n"
    made = "import sys, pathlib; from contract.lifeline import Lifeline; Lifeline(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", made, str(tmp_path)], cwd=ROOT, timeout=30, check=True)
    assert (tmp_path / NAME).is_fifo()
    late = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert late.returncode in (1, -signal.SIGKILL) and late.stdout == ""
