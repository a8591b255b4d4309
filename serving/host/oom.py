"""Tells whether the kernel's OOM killer has struck: a process that it ends leaves no message of its own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
RAN_OUT = "; memory ran out and the kernel ended a process: give this machine or container more, or lower KV_CACHE_GB"


class OomWatch:
    """Whether the kernel has killed a process of this container, or of this machine, since this object was made."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._before = self._count()

    def ran_out(self) -> str:
        """The end of a sentence that says why something died; "" if memory was not the reason."""
        return RAN_OUT if self._count() > self._before else ""

    def _count(self) -> int:
        for path in self._counters():
            with contextlib.suppress(OSError):
                if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                    return int(found[1])
        return 0

    def _counters(self) -> Iterator[Path]:
        """The nearest first: cgroup v2 (https://docs.kernel.org/admin-guide/cgroup-v2.html), v1, the whole machine."""
        with contextlib.suppress(OSError):
            for line in (self._root / "proc/self/cgroup").read_text().splitlines():
                _, controllers, group = line.split(":", 2)
                if controllers in ("", "memory"):
                    mount = self._root / "sys/fs/cgroup" / controllers
                    name = "memory.oom_control" if controllers else "memory.events"
                    yield from (mount / group.lstrip("/") / name, mount / name)
        yield self._root / "proc/vmstat"
