"""One module per engine. ``load`` picks the module that ``engine.json`` names; each exposes ``create``."""

from __future__ import annotations

import importlib
from typing import cast

from serving.engine_dir import EngineInfo
from serving.errors import EngineDirectoryError
from serving.runtimes.base import OnDeath, OnStep, Runtime, RuntimeOptions

NAMES = ("tensorrt_llm", "vllm", "openvino", "simulated")


def load(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    """Start the runtime that ``engine`` was built for. Blocks until it can take requests."""
    if engine.runtime.name not in NAMES:
        raise EngineDirectoryError(
            f"engine.json: runtime {engine.runtime.name!r} is not one of {', '.join(NAMES)}; rebuild with `make engine`"
        )
    module = importlib.import_module(f"serving.runtimes.{engine.runtime.name}")
    return cast(Runtime, module.create(engine, options, on_step, on_death))
