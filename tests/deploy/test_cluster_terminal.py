"""A cluster ends with its terminal, and what else sends SIGHUP rolls it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.paths import ROOT
from deploy import running

# A session's leader that, like make under ssh, keeps SIGHUP to itself and waits for its child.
LEADER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, lambda *_: None)
if "none" not in sys.argv[1]:
    os.open(sys.argv[1], os.O_RDWR)
def prepare():
    if "background" in sys.argv:
        os.setpgrp()
    signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[3]], preexec_fn=prepare)
os.write(1, f"{child.pid}\\n".encode())
sys.exit(child.wait())
"""
CLUSTER = """
import sys
from deploy import cluster
from deploy.arguments import parse
cluster.Cluster._start = lambda self: print("ready", flush=True)
sys.exit(cluster.main(parse(["--replicas", "http://127.0.0.1:1", "--run", sys.argv[1]])))
"""
ROLLED = "cluster: replicas given as URLs are replaced where they run\n"
ENDED = "cluster: stopped while starting\n"


class Started:
    def __init__(self, run: Path, terminal: bool, *words: str) -> None:
        self.run = run
        self._ours, line = os.openpty()
        command = [sys.executable, "-c", LEADER, os.ttyname(line) if terminal else "none", CLUSTER, str(run), *words]
        self.leader = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, text=True)
        os.close(line)
        self.pid = int(self.said())
        assert self.said() == "ready\n"

    def said(self) -> str:
        assert self.leader.stdout
        return self.leader.stdout.readline()

    def hang_up(self) -> None:
        os.close(self._ours)
        self._ours = -1

    def close(self) -> None:
        if self._ours >= 0:
            self.hang_up()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.leader.communicate()

    def is_rolled(self) -> bool:
        return running.roll(self.run) == self.pid and self.said() == ROLLED


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Started]:
    cluster = Started(tmp_path, *request.param)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("started", [(True,)], indirect=True, ids=["foreground"])
def test_it_ends_with_its_terminal(started: Started) -> None:
    assert started.is_rolled()
    started.hang_up()
    assert started.said() == ENDED and started.leader.wait(60) == 0


@pytest.mark.parametrize("started", [(True, "background"), (True, "nohup"), (False,)], indirect=True, ids=str)
def test_it_outlives_a_terminal_that_is_not_its_own(started: Started) -> None:
    """In the background, under nohup, and without one (setsid, systemd)."""
    started.hang_up()
    assert started.is_rolled() and started.is_rolled()
    os.kill(started.pid, signal.SIGTERM)
    assert started.said() == ENDED and started.leader.wait(60) == 0


@pytest.mark.parametrize(
    ("started", "said"), [((True, "background"), ENDED), ((True, "nohup"), ROLLED)], indirect=["started"], ids=str
)
def test_a_shell_that_says_that_its_terminal_is_closed_is_no_roll(started: Started, said: str) -> None:
    started.hang_up()
    os.kill(started.pid, signal.SIGHUP)
    if said == ROLLED:  # it goes on, and rolls when it is asked to
        assert running.roll(started.run) == started.pid
    assert started.said() == said


@pytest.mark.parametrize("started", [(True,), (False,)], indirect=True, ids=["terminal", "none"])
def test_a_signal_with_an_open_terminal_or_none_rolls(started: Started) -> None:
    """systemd's ``ExecReload=kill -HUP $MAINPID``."""
    os.kill(started.pid, signal.SIGHUP)
    assert started.said() == ROLLED
