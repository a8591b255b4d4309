"""The engine core from a fork server, which imports vLLM while this process does.

vLLM spawns its engine core: a new interpreter, which imports vLLM once more after this process has. multiprocessing's
fork server imports it at the same time, in a process with one thread and no CUDA, and forks when asked: the engine of a
warm start on an H100 host was there after 19.6 s instead of 29.5 (docs/gpu.md). ``VLLM_WORKER_MULTIPROC_METHOD=spawn``
keeps vLLM's way; vLLM itself knows only ``spawn`` and ``fork``, and forks by default from a process that has imported as
much.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import context, forkserver
from typing import Any

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
PRELOADED = ("vllm.v1.engine.core",)


def start() -> bool:
    """Begin importing, unless the user chose another way. Call it before vLLM is imported here."""
    if os.environ.get(METHOD, "forkserver") != "forkserver":
        return False
    os.environ[METHOD] = "spawn"  # for what the engine core starts, and the only word of the two that vLLM knows
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    return True


def use() -> None:
    """Let vLLM start its engine core through the server."""
    from vllm.v1.engine import utils

    utils.get_mp_context = CoreContext


class CoreProcess(context.ForkServerProcess):
    """A process with this one's environment: the server has that of its own start."""

    def __init__(
        self, *, target: Callable[..., object], name: str, kwargs: Mapping[str, Any], args: Sequence[Any] = ()
    ) -> None:
        super().__init__(target=_run, name=name, args=(dict(os.environ), target, args, dict(kwargs)))


class CoreContext(context.ForkServerContext):
    Process = CoreProcess


def _run(
    environment: dict[str, str], target: Callable[..., object], args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args, **kwargs)
