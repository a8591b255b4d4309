"""``python -m build_engine plan``: the table of ``planner`` for people (rich) or for programs (``--json``)."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from build_engine import quantized
from build_engine.plan import profiles
from build_engine.plan.fit import PRECISIONS, PlanRequest
from build_engine.plan.model import DEFAULT_MODEL, load
from build_engine.plan.planner import EnginePlan, plan
from build_engine.quantized import Quantized
from contract import gpus
from contract.errors import BuildError
from contract.model_shape import GIB

NARROWEST = 80  # columns: a narrower terminal breaks the lines itself, where rich would cut off the figures


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that ``plan`` and the TensorRT-LLM build share."""
    parser.add_argument("--model", default=DEFAULT_MODEL, help="directory, config.json or hub id (default %(default)s)")
    parser.add_argument("--gpu", default="", help=f"{', '.join(gpus.GPUS)}; default: the GPU of this machine")
    parser.add_argument("--precision", default="auto", help=f"auto, {', '.join(PRECISIONS)}; vllm: int8 (default auto)")
    parser.add_argument("--kv", default="auto", help="KV cache type: auto (bf16), fp8, int8")
    parser.add_argument(
        "--context", default="chat", help=f"{', '.join(profiles.PROFILES)} or tokens (default %(default)s)"
    )
    parser.add_argument("--backend", default="engine", choices=("engine", "pytorch"), help="of TensorRT-LLM")
    parser.add_argument("--tp", type=int, default=1, help="tensor parallel size (default %(default)s)")
    parser.add_argument("--profile", default="balanced", help=f"{', '.join(profiles.SPEEDS)} (default %(default)s)")


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("plan", help="what fits which GPU, from config.json alone")
    add_plan_arguments(parser)
    parser.add_argument("--runtime", default="tensorrt_llm", choices=("tensorrt_llm", "vllm"))
    parser.add_argument(
        "--memory-fraction", type=float, default=gpus.MEMORY_FRACTION, help="of GPU memory (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def plan_request(
    *,
    gpu: str,
    context: str,
    precision: str,
    kv: str,
    backend: str,
    tp: int,
    profile: str = "balanced",
    runtime: str = "tensorrt_llm",
    memory_fraction: float = gpus.MEMORY_FRACTION,
) -> PlanRequest:
    """Look up the names; an empty ``gpu`` means the one that ``nvidia-smi`` shows. Raises ``BuildError``."""
    low, high = gpus.MEMORY_FRACTIONS
    if not low <= memory_fraction <= high:
        raise BuildError(f"--memory-fraction {memory_fraction} is out of range: choose {low} to {high}")
    found = gpus.by_name(gpu) if gpu else gpu_present()
    speed = profiles.by_speed(profile)
    return PlanRequest(found, profiles.by_context(context), precision, kv, runtime, backend, tp, speed, memory_fraction)


def of_arguments(args: argparse.Namespace) -> PlanRequest:
    """From the options of ``add_plan_arguments``, and those of ``plan`` when given."""
    names = ("gpu", "context", "precision", "kv", "backend", "tp", "profile", "runtime", "memory_fraction")
    return plan_request(**{name: getattr(args, name) for name in names if hasattr(args, name)})


def for_checkpoint(request: PlanRequest, model: str) -> tuple[PlanRequest, Quantized | None]:
    """The request for ``model`` and how the model is quantized; a quantized one fixes the precision.

    Raises ``BuildError`` when the runtime cannot serve it unchanged."""
    found = quantized.of_model(model)
    if not found:
        return request, None
    if why := quantized.refusal(found, model, request.runtime, request.backend):
        raise BuildError(why)
    return dataclasses.replace(request, quantized=found.precision), found


def gpu_present() -> gpus.Gpu:
    found = gpus.detect()
    if not found:
        raise BuildError(f"no NVIDIA GPU here (nvidia-smi): pass --gpu or GPU=, one of {', '.join(gpus.GPUS)}")
    return found[0].gpu


def run(args: argparse.Namespace) -> int:
    request, _ = for_checkpoint(of_arguments(args), args.model)
    result = plan(load(args.model, args.runtime), request)
    if args.json:
        print(json.dumps(as_json(result), indent=2))
    else:
        render(result, Console(width=max(NARROWEST, Console().width), soft_wrap=True))
    return 0


def as_json(result: EnginePlan) -> dict[str, Any]:
    data = dataclasses.asdict(result)
    choice = data.pop("request")
    return {**data, "choice": choice, "gpu": choice.pop("gpu"), "profile": choice.pop("profile")}


def render(result: EnginePlan, console: Console) -> None:
    request = result.request
    title = f"{result.model} · {result.precision} · {request.gpu.name} · {request.profile.name}"
    facts = Table("what", "value", title=title, title_justify="left")
    for row in _facts(result):
        facts.add_row(*row)
    console.print(facts)
    streams = Table(
        "context", "streams that fit", "decoded at once", "step floor", title="KV pool", title_justify="left"
    )
    for line in result.streams:
        floor = f"{line.step_floor_ms:.1f} ms" if line.step_floor_ms else "-"
        streams.add_row(f"{line.context:,}", f"{line.fit:,}", f"{line.at_once:,}", floor)
    console.print(streams)
    console.print(f"limited by {result.limit}")
    for note in result.notes:
        console.print(f"note: {note}")


def _facts(result: EnginePlan) -> list[tuple[str, str]]:
    request, total = result.request, result.request.gpu.memory_mib / 1024
    where = f"{request.runtime} {request.backend}" if request.runtime == "tensorrt_llm" else request.runtime
    floor = (
        f"{result.decode_floor_ms:.2f} ms/token ({1000 / result.decode_floor_ms:.0f} tokens/s)"
        if request.gpu.bandwidth_gb_s
        else "unknown"
    )
    return [
        ("runtime", f"{where}, TP {request.tensor_parallel}"),
        ("profile", f"{request.speed.name}: {request.speed.job}"),
        ("GPU memory", f"{total:.1f} GiB, fraction {request.memory_fraction:g}"),
        ("weights", f"{result.weight_bytes / GIB:.2f} GiB ({result.precision})"),
        ("runtime's own", f"{result.overhead_bytes / GIB:.2f} GiB"),
        (
            "KV pool",
            f"{result.kv_pool_bytes / GIB:.2f} GiB ({result.kv_dtype}, {result.kv_bytes_per_token / 1024:g} KiB/token)",
        ),
        ("KV tokens", f"{result.kv_tokens:,} in {result.kv_blocks:,} blocks of {result.tokens_per_block}"),
        (
            "engine limits",
            f"context {result.max_seq_len:,}, batch {result.max_batch_size}, step {result.max_num_tokens:,} tokens",
        ),
        ("decode floor, one stream", floor),
    ]
