"""A loaded ``LLM`` of TensorRT-LLM and the processes that came with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from serving.runtimes.tensorrt_llm.args import Surface
from serving.runtimes.tensorrt_llm.env import Package


@dataclass(frozen=True, slots=True)
class LoadedLlm:
    """The package, its LLM, and what ``create`` found out about them; ``children`` are the processes started by it."""

    package: Package
    llm: Any
    surface: Surface
    capabilities: frozenset[str]
    max_streams: int
    children: tuple[int, ...] = ()


def started(make: Callable[[], Any], engine: EngineInfo) -> tuple[Any, tuple[int, ...]]:
    """The result of ``make``, and the ids of the processes that it started. Raises ``EngineDirectoryError``."""
    before = _children()
    try:
        llm = make()
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineDirectoryError(f"engine: TensorRT-LLM cannot load {engine.path} ({first})") from error
    return llm, tuple(sorted(_children() - before))


def _children() -> set[int]:
    import psutil

    return {child.pid for child in psutil.Process().children(recursive=True)}
