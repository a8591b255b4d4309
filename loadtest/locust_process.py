"""Locust's own command, for ``command.locust_command``: with two things mended that would fill a terminal."""

from __future__ import annotations

import contract.program

import os

from contract import standard_streams


def waitpid(pid: int, options: int) -> tuple[int, int]:
    """``os.waitpid``, to which a child that is long gone has ended well.

    gevent forgets a dead child after a minute (``_reap_children``, gevent/os.py); at the end of a run Locust asks for
    it all the same, without a pause, for three seconds: 180,000 lines of traceback."""
    try:
        return _waitpid(pid, options)
    except ChildProcessError:
        return pid, 0


def run() -> None:
    standard_streams.unattended()  # whatever becomes of the terminal, the report is written
    from locust.main import main

    global _waitpid
    _waitpid, os.waitpid = os.waitpid, waitpid  # gevent's, now that Locust has put it there
    main()


_waitpid = os.waitpid

if __name__ == "__main__":
    run()
