"""Checkpoint -> OpenVINO engine directory, with numpy and OpenVINO alone: no torch, one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino as ov
from rich.console import Console
from rich.progress import Progress

from build_engine import tokenizer_check, tokenizer_files
from build_engine.checkpoint import Tensors, require_layout
from build_engine.openvino.graph import DecoderGraph
from build_engine.openvino.weights import PRECISIONS, Weights
from build_engine.plan.profiles import with_yarn
from build_engine.rope import positions_of, scaling_of
from build_engine.source import Source, model_name, open_source
from build_engine.spec import BuildSpec
from build_engine.staging import ELSEWHERE, build_info, file_infos, need_space, staged
from contract import engine_dir
from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from contract.errors import BuildError, EngineDirectoryError

__all__ = ["PRECISIONS", "build"]

MODEL_FILE = "openvino_model.xml"
KV_DTYPE = {"int8": "int8", "int4": "int8", "bf16": "bf16", "fp32": "fp32"}
BYTES_PER_WEIGHT = {"int8": 1.0625, "int4": 0.6, "bf16": 2.0}  # fp32 keeps the weights as they are: nothing is lost
log = logging.getLogger(__name__)


def build(spec: BuildSpec) -> Path:
    """See the module. Returns ``spec.out``; does nothing when it already holds this exact engine."""
    started = time.monotonic()
    source = open_source(spec)
    config = source.config if spec.context is None else with_yarn(source.config, spec.context)
    key = fingerprint(spec, source, config)
    if not spec.force and up_to_date(spec.out, key):
        log.info("engine: %s is up to date (the same checkpoint, precision and context)", spec.out)
        return spec.out
    if source.is_low_bit and spec.precision == "int4":
        log.warning("int4 costs much accuracy when the weights already have 4 bits: use int8")
    tensors = source.tensors(config)
    require_layout(tensors, source.name)
    need_space(spec.out, int(size(tensors, spec.precision) * 1.05) + (32 << 20))
    with staged(spec.out) as directory:
        source.write_tokenizer(directory)
        tokenizer_files.dump(config, directory / "config.json")
        tokenizer_check.complete(directory, config)
        convert(tensors, spec.precision, directory / MODEL_FILE)
        engine_dir.write(describe(spec, source, config, directory, key, started), directory)
    return spec.out


def size(tensors: Tensors, precision: str) -> float:
    """The size of the weights in bytes."""
    per_weight = BYTES_PER_WEIGHT.get(precision)
    return tensors.lossless_bytes if per_weight is None else tensors.parameters * per_weight


def fingerprint(spec: BuildSpec, source: Source, config: dict[str, Any]) -> str:
    """What the engine depends on: recipe, version, model, precision, config, the weight files' names, sizes, times."""
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in source.files]
    parts = [
        engine_dir.OPENVINO_RECIPE,
        version("openvino"),
        model_name(spec),
        spec.precision,
        spec.context,
        config,
        files,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def up_to_date(out: Path, key: str) -> bool:
    try:
        return (out / "build.key").read_text() == key and not engine_dir.damage(engine_dir.read(out))
    except (OSError, EngineDirectoryError):
        return False


def convert(tensors: Tensors, precision: str, path: Path) -> None:
    """Write the model's XML and BIN, with a progress bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"converting to {precision}", total=None)
        weights = Weights(tensors, precision)
        graph = DecoderGraph(weights, lambda done, total: progress.update(task, completed=done, total=total))
        model = graph.build()
    log.info("writing %s", path.with_suffix(".bin").name)
    try:
        ov.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # "iostream error" is all that OpenVINO says of a full disk
        place = path.parents[2]  # of the engine: ``staged`` made two directories there
        raise BuildError(
            f"{place}: the engine cannot be written ({error}): if its disk is full, free some space or {ELSEWHERE}"
        ) from error


def describe(
    spec: BuildSpec, source: Source, config: dict[str, Any], directory: Path, key: str, started: float
) -> EngineInfo:
    """``engine.json``; also writes ``build.key``, which tells the next build whether anything changed."""
    (directory / "build.key").write_text(key)
    context = spec.context or positions_of(config)
    noise = spec.synthetic or bool(config.get("synthetic"))
    return EngineInfo(
        model=ModelInfo(model_name(spec), spec.model, source.revision, noise, int(config["vocab_size"])),
        runtime=RuntimeInfo("openvino", version("openvino"), recipe=engine_dir.OPENVINO_RECIPE),
        precision=spec.precision,
        kv_dtype=KV_DTYPE[spec.precision],
        limits=EngineLimits(max_seq_len=context, max_input_len=context - 1),
        rope_scaling=scaling_of(config),
        files=file_infos(directory),
        build=build_info(spec.command, started),
    )
