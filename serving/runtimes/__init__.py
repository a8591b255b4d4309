"""One module per engine. ``load`` picks the module that ``engine.json`` names; each exposes ``create``."""

from __future__ import annotations

import importlib
from typing import cast

from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from serving.runtimes.base import OnDeath, OnStep, Runtime, RuntimeOptions

MODULES = {
    "tensorrt_llm": "tensorrt_llm.runtime", "vllm": "vllm.runtime", "openvino": "openvino.runtime",
    "simulated": "simulated",
}  # fmt: skip
NAMES = tuple(MODULES)


def load(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    """Start the runtime that ``engine`` was built for. Blocks until it can take requests."""
    if engine.runtime.name not in NAMES:
        raise EngineDirectoryError(
            f"engine.json: runtime {engine.runtime.name!r} is not one of {', '.join(NAMES)}; rebuild with `make engine`"
        )
    module = importlib.import_module(f"serving.runtimes.{MODULES[engine.runtime.name]}")
    return cast(Runtime, module.create(engine, options, on_step, on_death))
