"""Starts programs of ours so that a Ctrl-C is neither lost nor a traceback before they can take it: see ``program``."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C waits in a program that is started here until that imports ``contract.program``, as a child inherits it.

    Here it waits meanwhile, unless there is another thread that takes it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
