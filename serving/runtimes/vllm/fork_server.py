"""Starts the engine core from a fork server, which imports vLLM while this process does.

vLLM spawns its engine core: a new interpreter, which imports vLLM a second time, after this process has.
multiprocessing's fork server imports it at the same time, in a process with one thread and no CUDA, and forks on
request: on an H100 host with warm caches the engine was ready after 19.6 s instead of 29.5 (docs/gpu.md). With
``VLLM_WORKER_MULTIPROC_METHOD=spawn`` vLLM spawns as before. (vLLM itself knows only ``spawn`` and ``fork``; its
default forks a process that has imported everything.)

The engine core forks its model runners, as vLLM's ``LLM`` does: it has neither CUDA nor a request yet, and a spawned
one would import everything once more (13 s of a start on a host with slow cores). vLLM spawns them where a fork is
unsafe (``_maybe_force_spawn``, ``CpuPlatform``).
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import context, forkserver
from typing import Any

from serving.runtimes import guard

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
PRELOADED = ("vllm.v1.engine.core",)


def start() -> bool:
    """Begin importing, unless the user chose another start method. Call this before vLLM is imported here."""
    if os.environ.get(METHOD, "forkserver") != "forkserver":
        return False
    os.environ[METHOD] = "fork"  # for the engine core's own children; vLLM does not know "forkserver"
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    return True


def use(prepare: Callable[[], None]) -> None:
    """Let vLLM start its engine core through the server. ``prepare`` is called there first."""
    from vllm.v1.engine import utils

    CoreProcess.prepare = staticmethod(prepare)
    utils.get_mp_context = CoreContext


class CoreProcess(context.ForkServerProcess):
    """A process with this process's environment; the server's dates from its own start."""

    prepare: Callable[[], None] | None = None

    def __init__(
        self, *, target: Callable[..., object], name: str, kwargs: Mapping[str, Any], args: Sequence[Any] = ()
    ) -> None:
        given = (os.getpid(), dict(os.environ), self.prepare, target, args, dict(kwargs))
        super().__init__(target=_run, name=name, args=given)


class CoreContext(context.ForkServerContext):
    Process = CoreProcess


def _run(
    owner: int,
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
    target: Callable[..., object],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    _leave_with(owner)
    if prepare:
        prepare()
    target(*args, **kwargs)


def _leave_with(owner: int) -> None:
    """End this process when its owner has ended.

    Its parent is the fork server, and ``runtimes/guard.py`` guards an engine only once it has loaded."""
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        os._exit(1)

    def watch() -> None:
        select.select([handle], [], [])  # readable once the process has ended
        for model_runner in multiprocessing.active_children():  # it looks for its parent only once it has loaded
            model_runner.terminate()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(guard.GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="owner", daemon=True).start()
