"""Makes sure that a program's standard streams are open and cannot stop its work.

A shell may pass on a closed stream (``<&-``), a full disk (``> log``) or a pipe whose reader leaves (``| head -1``).
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

_replaced: list[Any] = []  # a stream that nobody holds any more would close its file


def open_closed() -> None:
    """A closed stream becomes /dev/null. Python has ``None`` for it, and the next file opened would get its number:
    what a library or a child process says on stderr would land in that file."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nothing, nothing == number)
            setattr(sys, name, open(nothing, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def lenient() -> None:
    """Also: what its encoding lacks is replaced."""
    open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def unattended() -> None:
    """Also: for work that goes on, and is kept elsewhere, when nobody can read along. Output that cannot be written is
    dropped, where Python would raise: an exception in a server's loop, or behind a report that was not yet written."""
    lenient()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            _replaced.append(stream)
            # Without a BufferedWriter, which refuses what a signal's handler says while a line is written.
            dropping: Any = _Dropping(stream.fileno(), "wb", closefd=False)
            setattr(sys, name, io.TextIOWrapper(dropping, stream.encoding, "replace", line_buffering=True))


class _Dropping(io.FileIO):
    def write(self, data: Any, /) -> int:
        """All of it, or as much as can be. A pipe that another program made non-blocking is waited for."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                count = super().write(view[written:])
                if count is None:
                    select.select([], [self.fileno()], [])
                written += count or 0
        except OSError:
            pass
        return len(view)
