"""One module per engine. ``load`` picks the module that ``engine.json`` names; each exposes ``create``."""

from __future__ import annotations

import importlib
from typing import cast

from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError, EngineUnavailable
from serving.runtimes.base import OnDeath, OnStep, Runtime, RuntimeOptions
from serving.runtimes.warmup import WarmUp

MODULES = {
    "tensorrt_llm": "tensorrt_llm.runtime", "vllm": "vllm.runtime", "openvino": "openvino.runtime",
    "simulated": "simulated",
}  # fmt: skip
NAMES = tuple(MODULES)
# Tokens of the longest prompt that warms an engine up, where that is not one step's worth; none at all for the
# simulated engine, which compiles nothing and whose step count is an input of tests.
WARM_UP_PROMPTS: dict[str, int | None] = {"openvino": 16, "simulated": None}


def load(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    """Start the runtime that ``engine`` was built for. Blocks until it is warm and can take requests."""
    if engine.runtime.name not in NAMES:
        raise EngineDirectoryError(
            f"engine.json: runtime {engine.runtime.name!r} is not one of {', '.join(NAMES)}; rebuild with `make engine`"
        )
    module = importlib.import_module(f"serving.runtimes.{MODULES[engine.runtime.name]}")
    warm_up = WarmUp(on_step, on_death)
    runtime = cast(Runtime, module.create(engine, options, warm_up.on_step, warm_up.on_death))
    try:
        warm_up.run(runtime, WARM_UP_PROMPTS.get(engine.runtime.name, engine.limits.max_num_tokens))
    except EngineUnavailable:
        runtime.close()
        raise
    return runtime
