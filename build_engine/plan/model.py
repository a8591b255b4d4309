"""Find a model's ``config.json``, local, shipped or on the hub: the planner needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from build_engine.spec import NAMED
from contract.errors import BuildError
from contract.model_shape import ModelShape
from contract.paths import ROOT

DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"
KNOWN = {"tensorrt_llm": ("qwen2",), "vllm": ("qwen2", "llama", "qwen3")}  # runtime -> model_type
SHIPPED = {DEFAULT_MODEL.lower(): ROOT / "build_engine" / "data" / "qwen2.5-7b-instruct.config.json"}


def from_config(config: dict[str, Any], name: str, runtime: str = "tensorrt_llm") -> ModelShape:
    """Raises ``BuildError`` that names the missing field or the unsupported architecture."""
    known = KNOWN[runtime]
    if config.get("model_type") not in known:
        raise BuildError(
            f"{name} has the model_type {config.get('model_type')!r}: with {runtime} only {', '.join(known)} can be "
            "planned"
        )
    try:
        return ModelShape.of(config, name)
    except ValueError as error:
        raise BuildError(f"config.json of {name}: {error}") from error


def load(model: str, runtime: str = "tensorrt_llm") -> ModelShape:
    """A directory, a ``config.json`` or a hub id. The default model needs no network; others fetch one small file."""
    return from_config(load_config(model), _short_name(model), runtime)


def load_config(model: str) -> dict[str, Any]:
    path = Path(model)
    if model in NAMED or path.suffix.lower() == ".gguf":
        raise BuildError(
            f"--model: {model} is for the CPU engine, this is about GPUs: pass a Hugging Face checkpoint or a hub id"
        )
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return _read(path)
    if model.lower() in SHIPPED:
        return _read(SHIPPED[model.lower()])
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise BuildError(f"no model at {model!r}: pass a directory with config.json, the file itself, or a hub id")
    return _read(_fetch_config(model))


def fetch_beside(model: str, name: str) -> Path | None:
    """A small file of a hub repository; None when it does not exist or cannot be fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if model.lower() in SHIPPED:
        return None
    try:
        return Path(hf_hub_download(model, name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read ({error}): pass a model directory or its config.json") from error
    if not isinstance(config, dict):
        raise BuildError(f"{path} is not a model configuration")
    return config


def _fetch_config(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(f"config.json of {model!r} cannot be fetched ({reason}): pass a local config.json") from error


def _short_name(model: str) -> str:
    path = Path(model)
    return path.parent.name if path.name == "config.json" else path.name
