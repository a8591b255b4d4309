"""Ends an engine's child processes when the process that owns them is gone.

Triton SIGKILLs an unhealthy Python stub and a stub whose server died leaves with ``exit(1)``: neither runs
``finalize`` or ``atexit``, and an orphaned engine keeps the GPU. So a small helper process holds a pipe from the owner;
when the pipe closes, for whatever reason, it ends the given processes. It holds them by pidfd, so a reused pid is never
hit.

``python guard.py PID...`` with the pipe as stdin. Standard library only: it is started by path, not imported.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_S = 5.0  # between SIGTERM and SIGKILL


def start(pids: Sequence[int], python: str) -> subprocess.Popen[bytes]:
    """Guard ``pids``. Closing the returned process's ``stdin`` (or dying) triggers it."""
    return subprocess.Popen([python, __file__, *map(str, pids)], stdin=subprocess.PIPE, start_new_session=True)


def stop(guard: subprocess.Popen[bytes]) -> None:
    """Call when the guarded processes have ended: the guard then has nothing left to do and exits."""
    if guard.stdin:
        guard.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        guard.wait(2 * GRACE_S)


def main(pids: Sequence[int]) -> None:
    handles = _open(pids)
    while os.read(0, 4096):  # the owner never writes; end of file means that it is gone
        continue
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, sign)
        deadline = time.monotonic() + GRACE_S
        while handles and time.monotonic() < deadline:
            ended = select.select(handles, [], [], 0.2)[0]  # a pidfd is readable once its process has ended
            handles = [handle for handle in handles if handle not in ended]


def _open(pids: Sequence[int]) -> list[int]:
    handles = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    return handles


if __name__ == "__main__":
    main([int(pid) for pid in sys.argv[1:]])
