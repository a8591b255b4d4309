"""``build``: turn a checkpoint into an engine directory for one runtime."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from build_engine.plan import profiles
from build_engine.spec import FP8_DYNAMIC, NAMED, PRECISIONS, SPECULATIONS, BuildSpec
from contract import engine_dir, gpus
from contract.errors import BuildError, EngineDirectoryError

# runtime -> module with ``build(spec: BuildSpec) -> Path`` and ``PRECISIONS``; imported only when needed
BUILDERS = {
    "openvino": "build_engine.openvino.build",
    "tensorrt_llm": "build_engine.tensorrt_llm.build",
    "vllm": "build_engine.vllm.build",
}
# Options that only some builders read: field of BuildSpec -> its name here and in make, and its value when not given.
OPTIONS: dict[str, tuple[str, Any]] = {
    "gpu": ("gpu", ""),
    "kv_dtype": ("kv", None),
    "tensor_parallel": ("tp", 1),
    "backend": ("backend", "engine"),
    "profile": ("profile", "balanced"),
    "calibration": ("calibration", None),
    "alpha": ("alpha", None),
    "alpha_sweep": ("alpha", False),
    "dry_run": ("dry-run", False),
    "fp8_head": ("fp8-head", False),
    "speculate": ("speculate", ""),
    "lora": ("lora", ()),
    "vllm_args": ("vllm-args", {}),
}
OF_GPUS = frozenset({"gpu", "kv_dtype", "tensor_parallel", "calibration"})
READ_BY = {
    "openvino": frozenset[str](),
    "tensorrt_llm": OF_GPUS | {"backend", "profile", "alpha", "alpha_sweep", "dry_run"},
    "vllm": OF_GPUS | {"fp8_head", "speculate", "lora", "vllm_args"},
}
CPU_PRECISIONS, GPU_PRECISIONS = ("int8", "int4", "fp32"), ("fp8", "int8_sq", "int8_wo")
SWEEP = "sweep"
log = logging.getLogger(__name__)
DEFAULT_PRECISION = {"openvino": "int8"}  # elsewhere "auto": the builder chooses by the GPU


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("build", help="checkpoint -> engine directory")
    parser.add_argument("--model", required=True, help=f"directory, .gguf file, hub id, {', '.join(NAMED)}")
    parser.add_argument("--precision", metavar="P", help=", ".join(PRECISIONS) + " (int8 on a CPU, else by the GPU)")
    parser.add_argument("--runtime", metavar="R", help=", ".join(BUILDERS) + " (default: by precision and GPU)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="engine directory to write")
    names = ", ".join(profiles.PROFILES)
    parser.add_argument("--context", metavar="N", help=f"prompt + output tokens, or {names} (the checkpoint's own)")
    parser.add_argument("--revision", help="hub revision")
    parser.add_argument("--force", action="store_true", help="build again even when the engine is up to date")
    parser.add_argument("--dry-run", action="store_true", help="print every command, run nothing (NVIDIA)")
    _add_gpu_options(parser.add_argument_group("NVIDIA"))
    _add_vllm_options(parser.add_argument_group("vllm"))
    parser.set_defaults(run=run)


def _add_gpu_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gpu", default="", help="GPU to build for (default: the one in this machine)")
    group.add_argument("--backend", default="engine", choices=("engine", "pytorch"), help="TensorRT-LLM's")
    group.add_argument(
        "--kv", choices=("auto", "bf16", "fp8", "int8"), metavar="TYPE",
        help="KV cache type: bf16 (default), fp8, int8; the last two need the accuracy gate",
    )  # fmt: skip
    group.add_argument("--tp", type=int, default=1, help="tensor parallel size (default %(default)s)")
    group.add_argument(
        "--profile", default="balanced", help=f"{', '.join(profiles.SPEEDS)} (default %(default)s; tensorrt_llm)"
    )
    group.add_argument("--calibration", type=Path, help="your own prompts: .jsonl, .json, .txt or a directory of them")
    group.add_argument("--alpha", metavar="A", help="SmoothQuant strength, 0 to 1 (default 0.5), or `sweep`: the best")


def _add_vllm_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fp8-head", action="store_true", help="lm_head in FP8 too (needs the accuracy gate)")
    group.add_argument(
        "--speculate", default="", choices=("", *SPECULATIONS), help="speculative decoding, off by default"
    )
    group.add_argument("--lora", default="", metavar="NAME=DIR,…", help="adapters, chosen per request by name")
    group.add_argument("--vllm-args", default="{}", metavar="JSON", help="further engine arguments of vLLM")


def run(args: argparse.Namespace) -> None:
    spec = spec_of(args)
    out = build(spec)
    if not spec.dry_run:
        print(f"engine ready: {out}")


def spec_of(args: argparse.Namespace) -> BuildSpec:
    if args.precision and args.precision not in ("auto", *PRECISIONS):
        raise BuildError(f"--precision: {args.precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    runtime = args.runtime or default_runtime(args.model, args.precision, args.gpu)
    precision = args.precision if args.precision != "auto" else None
    return BuildSpec(
        model=args.model,
        precision=precision or DEFAULT_PRECISION.get(runtime, "auto"),
        runtime=runtime,
        out=args.out,
        context=profiles.by_context(args.context).max_seq_len if args.context else None,
        revision=args.revision,
        kv_dtype=args.kv if args.kv != "auto" else None,
        tensor_parallel=args.tp,
        calibration=args.calibration,
        dry_run=args.dry_run or os.environ.get("DRY_RUN", "") not in ("", "0"),
        gpu=args.gpu,
        backend=args.backend,
        profile=args.profile,
        alpha=_alpha(args.alpha),
        alpha_sweep=args.alpha == SWEEP,
        fp8_head=args.fp8_head,
        speculate=args.speculate,
        lora=_adapters(args.lora),
        vllm_args=_object("--vllm-args", args.vllm_args),
        force=args.force,
        command=args.command_line,
    )


def _alpha(text: str | None) -> float | None:
    if text in (None, SWEEP):
        return None
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BuildError(f"--alpha: {text!r} is neither a number from 0 to 1 nor `{SWEEP}`")
    return value


def _adapters(given: str) -> tuple[tuple[str, Path], ...]:
    pairs = [part.partition("=") for part in given.split(",") if part]
    for name, _, directory in pairs:
        if not re.fullmatch(r"[\w.-]{1,100}", name) or not directory:
            raise BuildError(f"--lora: {name!r} must be NAME=DIR (letters, digits, '.', '_', '-'), separated by commas")
    return tuple((name, Path(directory)) for name, _, directory in pairs)


def _object(flag: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BuildError(f"{flag}: {text!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BuildError(f"{flag}: {text!r} must be a JSON object of argument names and values")
    return value


def default_runtime(model: str, precision: str | None, gpu: str) -> str:
    """TensorRT-LLM where there is an NVIDIA GPU or the precision needs one, OpenVINO elsewhere."""
    if precision in CPU_PRECISIONS or model in NAMED or model.lower().endswith(".gguf"):
        return "openvino"
    if precision == FP8_DYNAMIC:
        return "vllm"
    return "tensorrt_llm" if precision in GPU_PRECISIONS or gpu or gpus.detect() else "openvino"


def build(spec: BuildSpec) -> Path:
    """Build ``spec`` with its runtime's builder; returns the engine directory. Raises ``BuildError``."""
    if spec.runtime == "simulated":
        raise BuildError("--runtime: simulated needs no engine of its own: make serve RUNTIME=simulated")
    if spec.runtime not in BUILDERS:
        raise BuildError(
            f"--runtime: no builder {spec.runtime!r} for precision {spec.precision}: use {', '.join(BUILDERS)}"
        )
    profiles.by_speed(spec.profile)
    _refuse_unread(spec)
    _refuse_overlap(spec)
    builder = importlib.import_module(BUILDERS[spec.runtime])
    if spec.precision not in builder.PRECISIONS:
        raise BuildError(
            f"--precision: {spec.runtime} cannot do {spec.precision}: use one of {', '.join(builder.PRECISIONS)}"
        )
    if not spec.dry_run:
        _say_what_is_replaced(spec)
    return cast(Callable[[BuildSpec], Path], builder.build)(spec)


def _refuse_unread(spec: BuildSpec) -> None:
    """Refuse an option that the runtime's builder does not read, by name and before anything is written."""
    if spec.revision and (spec.model in NAMED or Path(spec.model).exists()):
        raise BuildError(f"--revision: {spec.model} is not on the hub and has no revisions: leave REVISION= out")
    for field, (name, nothing) in OPTIONS.items():
        if getattr(spec, field) == nothing or field in READ_BY[spec.runtime]:
            continue
        others = "|".join(runtime for runtime, read in READ_BY.items() if field in read)
        variable = name.upper().replace("-", "_")
        raise BuildError(
            f"--{name}: this builds for {spec.runtime}, which does not read it: leave {variable}= out, or say "
            f"RUNTIME={others}"
        )


def _refuse_overlap(spec: BuildSpec) -> None:
    """The directory of the engine is replaced whole: nothing that the build reads may lie in it."""
    out = Path(os.path.realpath(spec.out))
    read = [("MODEL", Path(spec.model)), ("CALIBRATION", spec.calibration), *(("LORA", path) for _, path in spec.lora)]
    for name, path in read:
        real = Path(os.path.realpath(path)) if path and path.exists() else None
        if real and (real == out or out in real.parents):
            raise BuildError(
                f"--out: {out} holds {name}={path}, and the engine would replace it: choose another ENGINE= directory"
            )


def _say_what_is_replaced(spec: BuildSpec) -> None:
    if not (spec.out / "engine.json").is_file():
        return
    try:
        old = engine_dir.read(spec.out)
    except EngineDirectoryError as error:
        log.warning("%s holds an engine that cannot be read (%s); it will be replaced", spec.out, error)
        return
    if old.runtime.name != spec.runtime:
        log.warning("%s holds the %s engine of %s: this %s engine will replace it (ENGINE= names another directory)",
                    spec.out, old.runtime.name, old.model.name, spec.runtime)  # fmt: skip
