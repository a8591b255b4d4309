"""The command line itself: what a signal does to a build."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from build_engine import __main__
from contract.arguments import EXIT_NOT_FETCHED
from contract.errors import BuildError, NotFetched
from contract.paths import ROOT

# A command that stages a directory, runs a child, and cleans up slowly: long enough for a second signal.
SCRIPT = """
import sys, time, types
from pathlib import Path
from build_engine import __main__ as command, staging, steps

def add_parser(sub):
    sub.add_parser("slow").set_defaults(run=run)

def run(args):
    def slowly(*_, **__):
        print("cleaning", flush=True); time.sleep(0.5); remove(*_, **__)
    remove, staging.shutil.rmtree = staging.shutil.rmtree, slowly
    with staging.staged(Path(sys.argv[1])):
        steps.finish([sys.executable, "-c", CHILD, sys.argv[2]])

CHILD = '''
import signal, sys, time
from pathlib import Path
def ended(*_):
    Path(sys.argv[1]).write_text("told"); sys.exit(0)
signal.signal(signal.SIGTERM, ended); signal.signal(signal.SIGINT, signal.SIG_IGN)
print("started", flush=True); time.sleep(60)
'''
sys.modules["slow"] = types.SimpleNamespace(add_parser=add_parser)
command.COMMANDS = ("slow",)
sys.exit(command.main(["slow"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_build_cleans_up_whatever_comes_meanwhile(tmp_path: Path, number: signal.Signals) -> None:
    out, told = tmp_path / "engine", tmp_path / "told"
    command = [sys.executable, "-c", SCRIPT, str(out), str(told)]
    build = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert build.stdout is not None and build.stdout.readline() == "started\n"
    build.send_signal(number)
    assert build.stdout.readline() == "cleaning\n"
    build.send_signal(signal.SIGINT)
    build.send_signal(number)
    _, errors = build.communicate(timeout=30)
    assert build.returncode == 128 + number
    assert errors == "interrupted: nothing half-built was left behind; run the same command to continue\n"
    assert told.read_text() == "told" and list(tmp_path.iterdir()) == [told]


@pytest.mark.parametrize(("error", "code"), [(NotFetched("no network"), EXIT_NOT_FETCHED), (BuildError("full"), 1)])
def test_the_exit_code_tells_what_could_not_be_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BuildError, code: int
) -> None:
    def run(_: object) -> None:
        raise error

    command = types.SimpleNamespace(add_parser=lambda sub: sub.add_parser("x").set_defaults(run=run))
    monkeypatch.setitem(sys.modules, "stand_in", command)  # type: ignore[arg-type]
    monkeypatch.setattr(__main__, "COMMANDS", ("stand_in",))
    assert __main__.main(["x"]) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_interrupt_that_a_library_makes_another_error_of_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # as pybind11, while OpenVINO is imported
            raise ImportError("initialization failed") from None

    command = types.SimpleNamespace(add_parser=lambda sub: sub.add_parser("x").set_defaults(run=run))
    monkeypatch.setitem(sys.modules, "stand_in", command)  # type: ignore[arg-type]
    monkeypatch.setattr(__main__, "COMMANDS", ("stand_in",))
    assert __main__.main(["x"]) == 130
    assert capsys.readouterr().err.startswith("interrupted: ")


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    script = (
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom build_engine import __main__ as command\n"
        "with command._interruptible():\n    signal.raise_signal(signal.SIGHUP)\nprint('went on')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"


# Under ssh: make leads the session, keeps SIGHUP to itself and waits for the build.
UNDER_MAKE = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, lambda *_: None)
os.open(sys.argv[1], os.O_RDWR)
default = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[2]], preexec_fn=default))
"""
ENDLESS = """
import runpy, sys, time, types
run = lambda args: (print("started", flush=True), time.sleep(60))
slow = types.SimpleNamespace(add_parser=lambda sub: sub.add_parser("slow").set_defaults(run=run))
sys.modules["build_engine.synthetic.simulated"] = slow
sys.argv[1:] = ["slow"]
runpy.run_module("build_engine", run_name="__main__")
"""


def test_a_terminal_that_closes_ends_a_build_under_make() -> None:
    terminal, line = os.openpty()
    command = [sys.executable, "-c", UNDER_MAKE, os.ttyname(line), ENDLESS]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE) as leader:
        assert leader.stdout and leader.stdout.readline() == b"started\n"
        os.close(line)
        os.close(terminal)
        assert leader.wait(30) == 128 + signal.SIGHUP
