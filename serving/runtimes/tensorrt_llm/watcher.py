"""Notices that TensorRT-LLM is dead, from a thread that TensorRT-LLM cannot block.

TensorRT-LLM hands requests to its workers with a blocking send. Once a worker has been killed that send never returns,
so the event loop that submits and aborts cannot be the one that watches (docs/tensorrt_llm_facts.md, "Inside a Triton
stub").
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Sequence

WATCH_S = 1.0  # between looks at the clock; the end of a process wakes the thread at once


class Watcher:
    """Calls ``report(reason)`` once: when a process of ``pids`` ends, or when ``stalled()`` gives a reason."""

    def __init__(self, pids: Sequence[int], stalled: Callable[[], str], report: Callable[[str], None]) -> None:
        self._pids, self._stalled, self._report = tuple(pids), stalled, report
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tensorrt_llm-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Call before ending the processes on purpose."""
        self._stopped.set()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            handles: dict[int, int] = {}
            for pid in self._pids:
                try:
                    handle = os.pidfd_open(pid)  # holds the process, so that a reused pid is never mistaken for it
                except ProcessLookupError:
                    self._end(f"worker process {pid} is gone")
                    return
                stack.callback(os.close, handle)
                handles[handle] = pid
            self._end(self._watch(handles))

    def _watch(self, handles: dict[int, int]) -> str:
        poll = select.poll()
        for handle in handles:
            poll.register(handle, select.POLLIN)  # readable once the process has ended
        while not self._stopped.is_set():
            ended = poll.poll(int(WATCH_S * 1000))
            if ended:
                return f"worker process {handles[ended[0][0]]} ended (killed, or crashed: see its output above)"
            reason = self._stalled()
            if reason:
                return reason
        return ""

    def _end(self, reason: str) -> None:
        if reason and not self._stopped.is_set():
            self._report(reason)
