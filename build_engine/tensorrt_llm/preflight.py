"""Find every fault that would make a build fail, before hours are spent on it, each with its remedy.

``Facts`` describes the machine, gathered once; ``examine`` is pure. ``python -m build_engine preflight`` prints them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_engine import fetch, quantized
from build_engine.plan import fit
from build_engine.plan.cli import add_plan_arguments, of_arguments
from build_engine.plan.fit import PlanRequest
from build_engine.plan.model import load
from build_engine.plan.planner import EnginePlan, plan
from build_engine.spec import BuildSpec
from build_engine.tensorrt_llm.recipe import Recipe
from contract import gpus
from contract.errors import BuildError
from contract.gpus import DetectedGpu
from contract.model_shape import GIB, ModelShape
from contract.versions import pinned, version_tuple
from serving.host import container
from serving.host.machine import version_here

IMAGE_BYTES = 35 * GIB  # 14.2 GB compressed; the unpacked size is an estimate, on the safe side
DATACENTRE_DRIVER = (580,)  # CUDA 13 minor-version compatibility, data-centre GPUs only
ASSUMED_GPU = "h100"  # when there is none, so that the other faults can be found
CONSUMER = ("geforce", "rtx", "titan")


@dataclass(frozen=True, slots=True)
class Facts:
    """Sizes in bytes. ``docker`` is empty when usable, else what is wrong; it is irrelevant when ``in_container``."""

    gpus: tuple[DetectedGpu, ...]
    in_container: bool
    docker: str
    image_present: bool
    disk_free: int
    model_missing: tuple[str, ...]  # files a local checkpoint lacks
    installed: str  # TensorRT-LLM inside the container; "" on a host


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    text: str  # what was found; a fault's text ends with its remedy


def examine(facts: Facts, recipe: Recipe, shape: ModelShape) -> list[Finding]:
    """All findings, faults and passes, in the order in which an operator would look."""
    found = [*_gpu(facts, recipe), *_driver(facts), *_container(facts), *_disk(facts, recipe, shape)]
    if facts.gpus:
        found += [*_memory(facts, recipe, shape)]
    return [*found, *_checkpoint(facts, recipe), *_version(facts)]


def _gpu(facts: Facts, recipe: Recipe) -> Iterator[Finding]:
    wanted, tp = recipe.plan.request.gpu, recipe.plan.request.tensor_parallel
    if not facts.gpus:
        yield Finding("GPU", False, "none visible: install NVIDIA's driver so that `nvidia-smi` lists the GPU")
        return
    here = facts.gpus[0].gpu
    if here.sm != wanted.sm:
        text = f"{here.name} is SM{here.sm}, the plan is for SM{wanted.sm}: leave GPU= out or build on a {wanted.name}"
        yield Finding("GPU", False, text)
    elif len(facts.gpus) < tp:
        yield Finding("GPU", False, f"{len(facts.gpus)} visible, TP={tp} asked: use TP={len(facts.gpus)}")
    else:
        yield Finding("GPU", True, f"{len(facts.gpus)} × {here.name}, SM{here.sm}")


def _driver(facts: Facts) -> Iterator[Finding]:
    if not facts.gpus:
        return
    driver, wanted = facts.gpus[0].driver, pinned("tensorrt_llm", "driver")
    consumer = any(word in facts.gpus[0].gpu.name.lower() for word in CONSUMER)
    enough = version_tuple(driver) >= (version_tuple(wanted) if consumer else DATACENTRE_DRIVER)
    need = wanted if consumer else f"{wanted} (or ≥ 580 on a data-centre GPU)"
    yield Finding("driver", enough, driver if enough else f"{driver} is too old for CUDA 13: install {need}")


def _container(facts: Facts) -> Iterator[Finding]:
    if facts.in_container:
        yield Finding("container", True, "running inside it")
    elif facts.docker:
        yield Finding("container", False, facts.docker)
    else:
        text = container.image() if facts.image_present else f"{container.image()} will be built first (14 GB download)"
        yield Finding("container", True, text)


def _disk(facts: Facts, recipe: Recipe, shape: ModelShape) -> Iterator[Finding]:
    need = disk_need(recipe, shape) + (0 if facts.in_container or facts.image_present else IMAGE_BYTES)
    text = f"{facts.disk_free / GIB:.0f} GiB free at {recipe.work.parent}, about {need / GIB:.0f} GiB needed"
    enough = facts.disk_free >= need
    yield Finding("disk", enough, text if enough else f"{text}: free some space or choose ENGINE= on a larger disk")


def disk_need(recipe: Recipe, shape: ModelShape) -> int:
    """The fetched checkpoint, the quantized one and the engine; hard links make the engine directory free."""
    stored = recipe.plan.precision if recipe.quantized else "bf16"
    fetched = 0 if Path(recipe.spec.model).is_dir() else shape.weight_bytes(stored)
    return int(1.1 * (fetched + 2 * shape.weight_bytes(recipe.plan.precision)))


def _memory(facts: Facts, recipe: Recipe, shape: ModelShape) -> Iterator[Finding]:
    free = facts.gpus[0].free_mib * 1024**2
    need = gpu_need(recipe, shape)
    text = f"{free / GIB:.1f} GiB of GPU memory free, about {need / GIB:.1f} GiB needed to build"
    remedy = "stop other programs on the GPU (nvidia-smi), or use PRECISION=int8_wo, which is converted in host memory"
    yield Finding("GPU memory", free >= need, text if free >= need else f"{text}: {remedy}")


def gpu_need(recipe: Recipe, shape: ModelShape) -> int:
    """FP8 calibration holds the BF16 model and activations; trtllm-build holds the weights once more for tuning."""
    if recipe.plan.precision == "fp8" and not recipe.quantized:
        return int(shape.weight_bytes("bf16") * 1.2) + 2 * GIB
    return int(shape.weight_bytes(recipe.plan.precision) * 1.3) + 2 * GIB


def _checkpoint(facts: Facts, recipe: Recipe) -> Iterator[Finding]:
    local, wanted = Path(recipe.spec.model), recipe.spec.revision
    if not local.is_dir():
        yield Finding(
            "checkpoint",
            True,
            f"{recipe.spec.model} will be fetched{f' at {wanted}' if wanted else ''}",
        )
    elif facts.model_missing:
        text = f"{local} lacks {', '.join(facts.model_missing[:4])}: fetch it again, or pass MODEL= a hub id"
        yield Finding("checkpoint", False, text)
    else:
        revision = fetch.revision_of(local)
        if wanted and revision and revision != wanted:
            text = f"{local} is revision {revision}, asked for {wanted}: leave REVISION= out or fetch that one"
            yield Finding("checkpoint", False, text)
        elif why := refusal(recipe):
            yield Finding("checkpoint", False, why)
        else:
            yield Finding("checkpoint", True, f"{local}{f' at {revision}' if revision else ''}")


def refusal(recipe: Recipe) -> str:
    if not recipe.quantized:
        return ""
    return quantized.refusal(recipe.quantized, recipe.spec.model, "tensorrt_llm", recipe.backend)


def _version(facts: Facts) -> Iterator[Finding]:
    if not facts.in_container:
        return
    wanted = pinned("tensorrt_llm")
    if not facts.installed:
        yield Finding("TensorRT-LLM", False, container.not_installed())
    elif facts.installed != wanted:
        text = f"TensorRT-LLM {facts.installed}, pinned is {wanted}: use {container.image()}"
        yield Finding("TensorRT-LLM", False, text)
    else:
        yield Finding("TensorRT-LLM", True, wanted)


def require(recipe: Recipe) -> None:
    """``report`` on this machine."""
    report(examine(gather(recipe), recipe, load(recipe.spec.model)))


def report(found: Sequence[Finding]) -> None:
    """Print what was found; raise ``BuildError`` when any finding is a fault."""
    for finding in found:
        print(f"{'ok   ' if finding.ok else 'FAULT'}  {finding.name}: {finding.text}")
    faults = [finding for finding in found if not finding.ok]
    if faults:
        raise BuildError(f"{len(faults)} fault(s) above, the first is {faults[0].name}; nothing was changed")


def gather(recipe: Recipe) -> Facts:
    local = Path(recipe.spec.model)
    existing = next(path for path in (recipe.work, *recipe.work.parents) if path.exists())
    inside = container.inside()
    docker = "" if inside else docker_problem()
    return Facts(
        gpus=tuple(gpus.detect()),
        in_container=inside,
        docker=docker,
        image_present=not inside and not docker and _succeeds("docker", "image", "inspect", container.image()),
        disk_free=shutil.disk_usage(existing).free,
        model_missing=tuple(fetch.missing_files(local)) if local.is_dir() else (),
        installed=version_here("tensorrt_llm") if inside else "",
    )


def docker_problem() -> str:
    """Why no container with a GPU can be started here, and the remedy; an empty string when one can."""
    if shutil.which("docker") is None:
        return "Docker is not installed: install docker-ce and nvidia-container-toolkit"
    answer = subprocess.run(
        ["docker", "info", "--format", "{{json .Runtimes}}"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        return "Docker does not answer: start it, and add this user to the group `docker`"
    if "nvidia" in runtimes(answer.stdout):
        return ""
    return "Docker has no NVIDIA runtime: install nvidia-container-toolkit, `nvidia-ctk runtime configure`, restart"


def runtimes(text: str) -> Sequence[str]:
    """Names in ``docker info``'s JSON of runtimes; an answer that is not JSON names none."""
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return list(found) if isinstance(found, dict) else []


def _succeeds(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("preflight", help="is this machine ready to build a TensorRT-LLM engine?")
    add_plan_arguments(parser)
    parser.add_argument(
        "--runtime", default="tensorrt_llm", choices=("tensorrt_llm",), help="the only one that needs it"
    )
    parser.add_argument("--out", type=Path, default=Path("engines/default"), metavar="DIR")
    parser.add_argument("--revision", default="")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.gpu and not gpus.detect():
        args.gpu = ASSUMED_GPU
        print(f"note   no GPU here: sizes are those of GPU={ASSUMED_GPU}")
    request, found, shape = of_arguments(args), quantized.of_model(args.model), load(args.model)
    if found and not quantized.refusal(found, args.model, "tensorrt_llm", args.backend):
        request = dataclasses.replace(request, quantized=found.precision)
    planned, unplanned = _nearest_plan(shape, request)
    spec = BuildSpec(args.model, args.precision, "tensorrt_llm", args.out, revision=args.revision or None)
    recipe = Recipe(spec, planned, in_container=container.inside(), quantized=found)
    report([*unplanned, *examine(gather(recipe), recipe, shape)])
    return 0


def _nearest_plan(shape: ModelShape, request: PlanRequest) -> tuple[EnginePlan, list[Finding]]:
    """The plan; for an impossible one the nearest that works, so that the other faults can be found too."""
    try:
        return plan(shape, request), []
    except BuildError as error:
        nearest = fit.nearest(shape, request)
        if nearest is None:
            raise
        return plan(shape, nearest), [Finding("plan", False, str(error))]
