"""A checkpoint that is already quantized: how, and which runtimes can serve it unchanged.

The kind is in ``quantization_config`` of config.json or, with older tools, in a file beside it. vLLM reads every kind
named here and TensorRT-LLM's PyTorch backend reads ModelOpt's FP8; the CPU engine and TensorRT engines quantize the
original themselves (docs/tensorrt_llm_facts.md, "Quantized checkpoints").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.plan.model import fetch_beside, load_config
from contract.errors import BuildError

MODELOPT_FILE = "hf_quant_config.json"
BESIDE = {MODELOPT_FILE: "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}  # file -> quant_method
MODELOPT_FP8 = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
KV_FIELDS = ("kv_cache_scheme", "kv_cache_quant_algo")
PRECISIONS = {("float", 8): "fp8", ("int", 8): "int8", ("int", 4): "int4"}  # type and bits of the weights


@dataclass(frozen=True, slots=True)
class Quantized:
    kind: str  # as its tool names it, e.g. "ModelOpt FP8"
    precision: str  # what engine.json says of it: fp8, int8 or int4
    config: dict[str, Any]  # quantization_config as vLLM reads it
    sm: int = 80  # the oldest GPU on which vLLM runs it

    @property
    def for_pytorch(self) -> bool:
        """One scale per tensor in ModelOpt's format. TensorRT-LLM would take INT8 compressed tensors for FP8."""
        return self.kind == "ModelOpt FP8"

    def config_for(self, kv_dtype: str) -> dict[str, Any]:
        """Does not mention an FP8 KV cache unless that was asked for: a loader that finds its scales uses them, and
        an FP8 cache is known to break Qwen2.5."""
        if kv_dtype == "fp8":
            return self.config
        inner = self.config.get("quantization")
        rest = {"quantization": _without_kv(inner)} if isinstance(inner, dict) else {}
        return _without_kv(self.config) | rest

    def modelopt_file(self, kv_dtype: str) -> dict[str, Any]:
        """``hf_quant_config.json``, the only place where TensorRT-LLM 1.2 looks for ModelOpt's settings."""
        settings = _settings(self.config)
        told = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8" if kv_dtype == "fp8" else None}
        excluded = settings.get("exclude_modules", settings.get("ignore", []))
        producer = self.config.get("producer", {"name": "modelopt"})
        return {"producer": producer, "quantization": {**told, "exclude_modules": excluded}}


def of_directory(directory: Path, config: Mapping[str, Any]) -> Quantized | None:
    """How the checkpoint in ``directory`` is quantized; None when it is not. ``config`` is its config.json.

    Raises ``BuildError`` for a kind that is not known here.
    """
    if given := config.get("quantization_config"):
        return _known(given, directory / "config.json")
    for name, method in BESIDE.items():
        path = directory / name
        if path.is_file():
            return _known({"quant_method": method, **_read(path)}, path)
    return None


def of_model(model: str) -> Quantized | None:
    """The same for a directory or a hub id, of which small files are fetched."""
    config, path = load_config(model), Path(model)
    if path.exists():
        return of_directory(path if path.is_dir() else path.parent, config)
    if not config.get("quantization_config") and (found := fetch_beside(model, MODELOPT_FILE)):
        return of_directory(found.parent, {})
    return of_directory(path, config)


def refusal(found: Quantized, model: object, runtime: str, backend: str = "") -> str:
    """Why ``runtime`` cannot serve the checkpoint unchanged, and what can; an empty string when it can."""
    if runtime == "vllm" or (runtime == "tensorrt_llm" and backend == "pytorch" and found.for_pytorch):
        return ""
    others = "RUNTIME=vllm or BACKEND=pytorch serves" if found.for_pytorch else "RUNTIME=vllm serves"
    why = "this build quantizes"
    if runtime == "tensorrt_llm" and backend == "pytorch":
        why = "TensorRT-LLM's PyTorch backend reads only ModelOpt's FP8; otherwise this build quantizes"
    return (
        f"{model} is already quantized ({found.kind}): {why} the original BF16 checkpoint, so pass that one; "
        f"{others} this one as it is"
    )


def require_nothing_left_to_quantize(found: Quantized, given: Mapping[str, object]) -> None:
    """Refuse options about how to quantize. ``given``: option -> value."""
    for name, value in given.items():
        if value and not (name == "precision" and value in ("auto", found.precision)):
            raise BuildError(
                f"--{name}: the checkpoint is already quantized ({found.kind}): leave "
                f"{name.upper().replace('-', '_')}= out, or pass the original BF16 checkpoint"
            )


def _known(config: Any, where: Path) -> Quantized:
    method = str(config.get("quant_method", "")) if isinstance(config, dict) else ""
    try:
        found = READERS[method](config)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BuildError(
            f"{where}: this quantization is not known here (quant_method {method!r}): pass the original BF16 checkpoint"
        ) from None
    return found


def _modelopt(config: dict[str, Any]) -> Quantized:
    algorithm = str(_settings(config)["quant_algo"]).upper()
    if algorithm not in MODELOPT_FP8:
        raise ValueError(algorithm)
    return Quantized(f"ModelOpt {algorithm}", "fp8", config, sm=89)


def _fp8(config: dict[str, Any]) -> Quantized:
    return Quantized("FP8", "fp8", config)


def _compressed_tensors(config: dict[str, Any]) -> Quantized:
    groups = list(config["config_groups"].values())
    ((kind, bits),) = {(group["weights"]["type"], int(group["weights"]["num_bits"])) for group in groups}
    activations = (groups[0].get("input_activations") or {}).get("num_bits", 16)
    return Quantized(f"compressed-tensors W{bits}A{activations} {kind}", PRECISIONS[kind, bits], config)


def _awq(config: dict[str, Any]) -> Quantized:
    return _integers("AWQ", config, int(config.get("bits") or config["w_bit"]))


def _gptq(config: dict[str, Any]) -> Quantized:
    return _integers("GPTQ", config, int(config["bits"]))


def _integers(kind: str, config: dict[str, Any], bits: int) -> Quantized:
    return Quantized(f"{kind}, {bits} bit", PRECISIONS["int", bits], config)


READERS = {"modelopt": _modelopt, "fp8": _fp8, "compressed-tensors": _compressed_tensors, "awq": _awq, "gptq": _gptq}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """ModelOpt's own file nests them, config.json does not."""
    inner = config.get("quantization", config)
    return inner if isinstance(inner, dict) else {}


def _without_kv(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in KV_FIELDS}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read ({error}): download the checkpoint again") from error
    return found if isinstance(found, dict) else {}
