"""What a build is asked for: the parsed command line, checked once and read-only afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FP8_DYNAMIC = "fp8-dynamic"  # vllm: weights are quantized at load, activations are scaled while serving
PRECISIONS = ("fp8", FP8_DYNAMIC, "int8_sq", "int8_wo", "int8", "int4", "bf16", "fp32")
SPECULATIONS = ("ngram",)
SYNTHETIC = ("synthetic", "synthetic-0.5b", "synthetic-7b")
SMOLLM2 = "smollm2"
NAMED = (SMOLLM2, *SYNTHETIC)  # models with a name of their own, all for the CPU


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """``model`` is a directory, a .gguf file, a hub id or one of ``NAMED``; ``context`` is prompt + output tokens.

    ``None`` leaves a value to the builder: the checkpoint's own limit, the runtime's default.
    """

    model: str
    precision: str
    runtime: str
    out: Path
    context: int | None = None
    revision: str | None = None
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    max_input_len: int | None = None
    kv_dtype: str | None = None
    tensor_parallel: int = 1
    calibration: Path | None = None
    dry_run: bool = False
    gpu: str = ""  # a name of contract.gpus; empty: the GPU of this machine
    backend: str = "engine"  # of tensorrt_llm: engine | pytorch
    profile: str = "balanced"  # of tensorrt_llm: a name of plan.profiles.SPEEDS
    alpha: float | None = None  # SmoothQuant strength (int8_sq); None: the default of tensorrt_llm.commands
    alpha_sweep: bool = False  # try several alphas, keep the best
    fp8_head: bool = False  # of vllm: the output layer in FP8 too
    speculate: str = ""  # of vllm: a name of SPECULATIONS
    lora: tuple[tuple[str, Path], ...] = ()  # of vllm: names and adapter directories
    vllm_args: dict[str, Any] = field(default_factory=dict)  # of vllm: engine arguments beside ours
    force: bool = False  # build even when ``out`` already holds exactly this engine
    command: str = ""  # how it was started; recorded in engine.json

    @property
    def synthetic(self) -> bool:
        return self.model in SYNTHETIC

    @property
    def is_gguf(self) -> bool:
        return self.model == SMOLLM2 or self.model.lower().endswith(".gguf")
