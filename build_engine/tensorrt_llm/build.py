"""The TensorRT-LLM builder: checkpoint → engine directory, planned, checked, resumable.

On a host with Docker every GPU step runs in the pinned container; inside the container it runs directly. ``--dry-run``
prints all commands and needs no GPU.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from build_engine import quantized, steps, tokenizer_check, tokenizer_files
from build_engine.fetch import revision_of
from build_engine.plan.cli import for_checkpoint, plan_request
from build_engine.plan.fit import PRECISIONS as PLANNED
from build_engine.plan.fit import PlanRequest, precision_of
from build_engine.plan.model import load, load_config
from build_engine.plan.planner import plan
from build_engine.spec import BuildSpec
from build_engine.staging import file_infos, link_or_copy, staged
from build_engine.tensorrt_llm import preflight, sweep
from build_engine.tensorrt_llm.recipe import Recipe, calibrates
from contract import engine_dir, gpus
from contract.engine_dir import BuildInfo, EngineInfo, EngineLimits, GpuInfo, ModelInfo, RuntimeInfo
from contract.errors import BuildError
from contract.versions import pinned
from serving.host import container

PRECISIONS = ("auto", *PLANNED)
DEFAULT_CONTEXT = "chat"
NO_GATE = "the accuracy gate needs the original: make verify REFERENCE=<its BF16 checkpoint>"
PATH_WORDS = ("mpt", "vila", "cnn_dailymail", "scienceqa")
log = logging.getLogger(__name__)


def build(spec: BuildSpec) -> Path:
    """The engine directory of ``spec``; with ``dry_run`` only its commands, printed. Raises ``BuildError``."""
    if spec.dry_run and not spec.gpu and not gpus.detect():
        log.info("no GPU here: assuming GPU=%s", preflight.ASSUMED_GPU)
        spec = dataclasses.replace(spec, gpu=preflight.ASSUMED_GPU)
    recipes = sweep.recipes(spec, recipe_of) if spec.alpha_sweep else [recipe_of(spec)]
    if spec.dry_run:
        print("\n".join(line for recipe in recipes for line in dry_run_lines(recipe)))
        return spec.out
    preflight.require(recipes[0])
    if spec.alpha_sweep:
        sweep.run(recipes, spec.out, run)
    else:
        run(recipes[0])
    return spec.out


def recipe_of(spec: BuildSpec) -> Recipe:
    if spec.calibration and not spec.calibration.exists():
        raise BuildError(f"--calibration {spec.calibration} does not exist")
    request = plan_request(
        gpu=spec.gpu,
        context=str(spec.context or DEFAULT_CONTEXT),
        precision=spec.precision,
        kv=spec.kv_dtype or "auto",
        backend=spec.backend,
        tp=spec.tensor_parallel,
        profile=spec.profile,
    )
    refuse_path_words(spec, request)
    request, found = for_checkpoint(request, spec.model)
    if found:
        given = {"precision": spec.precision, "calibration": spec.calibration}
        quantized.require_nothing_left_to_quantize(found, given)
    planned = plan(load(spec.model), request)
    if planned.precision != "int8_sq" and (spec.alpha is not None or spec.alpha_sweep):
        raise BuildError(f"--alpha belongs to SmoothQuant, which {planned.precision} does not use: leave ALPHA= out")
    if spec.calibration and not calibrates(planned):
        raise BuildError(f"--calibration: {planned.precision} is made without prompts: leave CALIBRATION= out")
    respell = bool(load_config(spec.model).get("rope_parameters"))  # TensorRT-LLM 1.2 reads rope_theta alone
    return Recipe(spec, planned, in_container=container.inside(), quantized=found, respell=respell)


def refuse_path_words(spec: BuildSpec, request: PlanRequest) -> None:
    """quantize.py mistakes a path that contains one of these words for another model (docs/tensorrt_llm_facts.md)."""
    if request.backend != "engine" or precision_of(request) != "fp8":
        return
    local = [Path(spec.model).absolute()] if Path(spec.model).is_dir() else []
    for path in (*local, spec.out.absolute().parent):
        word = next((word for word in PATH_WORDS if word in str(path).lower()), "")
        if word:
            name = "MODEL=" if path in local else "ENGINE="
            raise BuildError(
                f"{path} contains {word!r}, which NVIDIA's quantize.py mistakes for another model or data set: choose "
                f"{name} in a directory without it"
            )


def dry_run_lines(recipe: Recipe) -> list[str]:
    """A shell script of the whole build, comments included."""
    lines = [] if recipe.in_container else ["# image", shlex.join(container.image_command())]
    for step in recipe.steps:
        lines += [f"# {step.name}", step.shell()]
    gate = [f"# {NO_GATE}"] if recipe.quantized else ["# accuracy gate", shlex.join(recipe.verify_argv())]
    return [*lines, f"# {recipe.spec.out}/engine.json", *gate]


def run(recipe: Recipe) -> None:
    """Run all steps, write the engine directory, run the accuracy gate. Raises ``BuildError`` when one fails."""
    started = datetime.datetime.now(datetime.timezone.utc)
    if not recipe.in_container:
        _image()
    commands = steps.run(recipe.steps)
    out, verify = recipe.spec.out, () if recipe.quantized else recipe.verify_argv()
    info = BuildInfo(
        [*commands, *([shlex.join(verify)] if verify else [])],
        started.isoformat(timespec="seconds"),
        round(steps.seconds(recipe.steps), 1),
        platform.node(),
    )
    with staged(out) as directory:
        assemble(recipe, directory, info)
    if not verify:
        log.info("%s is complete; %s", out, NO_GATE)
        return
    log.info("%s is complete; now the accuracy gate\n  %s", out, shlex.join(verify))
    if steps.finish(verify):
        raise BuildError(f"{out} failed its accuracy gate (above): it is kept for inspection and will not be served")


def _image() -> None:
    known = subprocess.run(["docker", "image", "inspect", container.image()], capture_output=True, check=False)
    if known.returncode == 0:
        return
    command = container.image_command()
    log.info("[image] %s", shlex.join(command))
    if steps.finish(command):
        raise BuildError(f"the image could not be built: `docker pull {pinned('tensorrt_llm', 'container')}` must work")


def assemble(recipe: Recipe, directory: Path, info: BuildInfo) -> None:
    """Runtime files, tokenizer and ``engine.json`` into ``directory``. Large files are hard links where possible."""
    target = directory / ("engine" if recipe.backend == "engine" else "checkpoint")
    target.mkdir()
    for path in sorted(recipe.artefact.resolve().iterdir()):
        if path.is_file() and path.name != steps.STAMP:
            link_or_copy(path, target / path.name)
    if recipe.quantized:
        _tell_kv_type(target, recipe.plan.kv_dtype)
    tokenizer_files.copy(recipe.model, directory)
    shutil.copyfile(recipe.shaped / "config.json", directory / "config.json")
    tokenizer_check.complete(directory, tokenizer_check.read_object(directory / "config.json"))
    version = built_version(target) if recipe.backend == "engine" else pinned("tensorrt_llm")
    engine_dir.write(describe(recipe, directory, info, version), directory)


def _tell_kv_type(checkpoint: Path, kv_dtype: str) -> None:
    """Make both descriptions of the quantization agree with the KV type. The files in ``checkpoint`` are links."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    found = quantized.of_directory(checkpoint, config)
    if not found:
        raise BuildError(f"{checkpoint} is not quantized after all: download the checkpoint again")
    written = {"config.json": config | {"quantization_config": found.config_for(kv_dtype)},
               quantized.MODELOPT_FILE: found.modelopt_file(kv_dtype)}  # fmt: skip
    for name, data in written.items():
        (checkpoint / name).unlink(missing_ok=True)
        tokenizer_files.dump(data, checkpoint / name)


def built_version(directory: Path) -> str:
    """The version that trtllm-build wrote. Raises ``BuildError`` unless it is the pinned one: no other would load."""
    path = directory / "config.json"
    try:
        version = str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(
            f"{path} is not an engine description ({error}): remove its step directory and build again"
        ) from error
    if version != pinned("tensorrt_llm"):
        raise BuildError(
            f"the engine says version {version}, pinned is {pinned('tensorrt_llm')}: use the pinned container"
        )
    return version


def describe(recipe: Recipe, directory: Path, info: BuildInfo, version: str) -> EngineInfo:
    spec, plan = recipe.spec, recipe.plan
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    gpu = plan.request.gpu
    revision = spec.revision or revision_of(recipe.model)
    return EngineInfo(
        model=ModelInfo(
            Path(spec.model).name.lower(),
            spec.model,
            revision,
            bool(config.get("synthetic")),
            int(config["vocab_size"]),
        ),
        runtime=RuntimeInfo("tensorrt_llm", version, recipe.backend, plan.request.speed.name),
        precision=plan.precision,
        kv_dtype=plan.kv_dtype,
        limits=EngineLimits(plan.max_seq_len, plan.max_input_len, plan.max_batch_size, plan.max_num_tokens),
        gpu=GpuInfo(gpu.name, gpu.sm, plan.request.tensor_parallel),
        rope_scaling=plan.rope_scaling,
        files=file_infos(directory),
        build=info,
    )
