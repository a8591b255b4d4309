"""Two signals of a terminal that closes are one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from contract.paths import ROOT
from serving.host.signals import on_signals

# A session's leader that, like make, keeps SIGHUP to itself and waits for its child.
LEADER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, lambda *_: None)
line = os.open(sys.argv[1], os.O_RDWR)
apart = os.setpgrp if sys.argv[3:] else None
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[2]], stdin=line, preexec_fn=apart))
"""
CHILD = """
import os, signal, threading
from serving.host.signals import on_signals
on_signals(lambda number, _: (os.write(1, signal.Signals(number).name.encode()), os._exit(0)))
(watch,) = (thread for thread in threading.enumerate() if thread.name == "terminal")
os.write(1, b"ready ")
watch.join()
os.write(1, b"goes on")
"""
LATE = """
import contextlib, os, signal
from serving.host.signals import on_signals
os.write(1, b"ready ")
with contextlib.suppress(OSError):  # until there is none any more
    while True:
        os.close(os.open("/dev/tty", os.O_RDONLY))
on_signals(lambda number, _: (os.write(1, signal.Signals(number).name.encode()), os._exit(0)))
os.write(1, b"goes on")
"""


@pytest.mark.parametrize(("before", "counted"), [(signal.SIG_DFL, 1), (signal.SIG_IGN, 0)], ids=["plain", "nohup"])
def test_a_terminal_that_closes_counts_once(before: signal.Handlers, counted: int) -> None:
    """The shell and the kernel both say it: a second signal would end open streams at once."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept, seen = [signal.getsignal(number) for number in numbers], list[int]()
    try:
        signal.signal(signal.SIGHUP, before)
        on_signals(lambda number, _: seen.append(number))
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(number)
    finally:
        for number, handler in zip(numbers, kept, strict=True):
            signal.signal(number, handler)
    assert seen == [signal.SIGHUP] * counted + [signal.SIGINT] * 2


@pytest.mark.parametrize(
    ("program", "apart", "said"),
    [(CHILD, (), b"SIGHUP"), (CHILD, ("background",), b"goes on"), (LATE, (), b"SIGHUP")],
    ids=["foreground", "background", "closed before anybody looked"],
)
def test_a_terminal_that_closes_is_seen_where_nobody_passes_it_on(
    program: str, apart: tuple[str, ...], said: bytes
) -> None:
    terminal, line = os.openpty()
    command = [sys.executable, "-c", LEADER, os.ttyname(line), program, *apart]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE) as leader:
        assert leader.stdout and leader.stdout.read(6) == b"ready "
        os.close(line)
        os.close(terminal)
        assert leader.stdout.read() == said
