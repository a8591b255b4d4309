"""What the first process of a container inherits: children of others that ended, as those of ``docker exec``."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable


def reap(own: Iterable[subprocess.Popen[bytes] | None]) -> None:
    """Ask for the exit codes of all ended children that are not ``own``. Where nobody does (``docker run`` without
    ``--init``, a pod), they stay in the process table until it is full."""
    kept = {process.pid for process in own if process}
    with contextlib.suppress(ChildProcessError):  # there are none at all
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in kept:  # whoever started it asks soon
                return
            os.waitpid(ended.si_pid, 0)
