"""Closed, full and abandoned standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.paths import ROOT

SETUP = "import os, sys; from contract import standard_streams as s; "


def shell(code: str, streams: str) -> subprocess.CompletedProcess[str]:
    line = f"exec {sys.executable} -W error -c '{SETUP}{code}' {streams}"
    return subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_never_gets_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    say = 'os.system("echo lost; echo lost >&2; cat")'
    code = f's.open_closed(); f = open("{path}", "w"); {say}; sys.exit(f.fileno() < 3)'
    assert shell(code, closed if "<" in closed else f"{closed} </dev/null").returncode == 0
    assert path.read_text() == ""


@pytest.mark.parametrize("output", [">/dev/full", "2>/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_unattended_work_goes_on_and_keeps_its_exit_status(output: str) -> None:
    code = 's.unattended(); print("a" * 9999, flush=True); print("b", file=sys.stderr); sys.exit(7)'
    assert shell(code, output).returncode == 7


def test_what_can_be_written_is(tmp_path: Path) -> None:
    done = shell('s.unattended(); s.unattended(); print("a"); print("b", file=sys.stderr)', "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n", "b\n")


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = f'{SETUP}s.unattended(); print("a" * 300000); sys.exit(7)'
    with subprocess.Popen([sys.executable, "-c", code], stdout=writer, cwd=ROOT) as process:
        os.close(writer)
        with os.fdopen(reader) as lines:
            assert len(lines.read()) == 300001
    assert process.returncode == 7


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("serving --engine /nowhere", 1, "/nowhere"),
        ("loadtest compare /nowhere /nowhere", 2, "/nowhere"),
        ("build_engine plan --gpu nothing", 1, "nothing"),
        ("client --set x=1 hello", 2, "x"),
    ],
)
@pytest.mark.parametrize("closed", ["<&- >&-", ">/dev/full", "<&- >&- 2>&-"])
def test_a_command_says_what_is_wrong_where_it_can(command: str, code: int, said: str, closed: str) -> None:
    line = f"exec {sys.executable} -m {command} {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == code
    assert "2>" in closed or (said in done.stderr and done.stderr.count("\n") == 1)


SIGNALLED = """
import os, signal
from contract import standard_streams
def interrupted(*_):
    print("stopping", flush=True)
def while_written(data):
    del standard_streams.memoryview
    os.kill(os.getpid(), signal.SIGTERM)
    return memoryview(data)
standard_streams.unattended()
signal.signal(signal.SIGTERM, interrupted)
standard_streams.memoryview = while_written
print("ready", flush=True)
print("stopped", flush=True)
"""


def test_a_signals_handler_may_speak_while_a_line_is_written() -> None:
    """`make serve` that was told to stop as it said that it is ready ended with a traceback: reentrant call."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["ready", "stopped", "stopping"]), done.stderr
