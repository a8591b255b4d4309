"""The TensorRT-LLM builder: checkpoint → engine directory, planned, checked, resumable.

On a host with Docker every GPU step runs in the pinned container; inside the container it runs directly. ``--dry-run``
prints all commands and needs no GPU.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from build_engine import steps
from build_engine.fetch import revision_of
from build_engine.modelopt_export import copy_tokenizer
from build_engine.plan import preflight, profiles
from build_engine.plan.cli import gpu_present
from build_engine.plan.model import load
from build_engine.plan.planner import PRECISIONS as PLANNED
from build_engine.plan.planner import Choice, Plan, plan
from build_engine.spec import BuildSpec
from build_engine.staging import file_infos, staged
from build_engine.tensorrt_llm.steps import Job, Recipe, recipe, verify_argv
from contract import engine_dir, gpus
from contract.engine_dir import BuildInfo, EngineInfo, EngineLimits, GpuInfo, ModelInfo, RuntimeInfo
from contract.errors import BuildError
from contract.versions import pinned
from serving.host import container

PRECISIONS = ("auto", *PLANNED)
DEFAULT_CONTEXT = "chat"
DRY_RUN_GPU = "h100"
log = logging.getLogger(__name__)


def build(spec: BuildSpec) -> Path:
    """The engine directory of ``spec``; with ``dry_run`` only its commands, printed. Raises ``BuildError``."""
    if spec.dry_run and not spec.gpu and not gpus.detect():
        log.info("no GPU here: assuming GPU=%s", DRY_RUN_GPU)
        spec = dataclasses.replace(spec, gpu=DRY_RUN_GPU)
    job = job_of(spec)
    made = recipe(job)
    if spec.dry_run:
        print("\n".join(dry_run_lines(job, made)))
        return spec.out
    preflight.require(job)
    run(job, made)
    return spec.out


def job_of(spec: BuildSpec) -> Job:
    if not 0 <= spec.alpha <= 1:
        raise BuildError(f"--alpha {spec.alpha:g} is out of range: SmoothQuant takes 0 to 1")
    if spec.calibration and not spec.calibration.exists():
        raise BuildError(f"--calibration {spec.calibration} does not exist")
    choice = Choice(
        gpu=gpus.by_name(spec.gpu) if spec.gpu else gpu_present(),
        profile=profiles.by_context(str(spec.context or DEFAULT_CONTEXT)),
        precision=spec.precision,
        kv_dtype=spec.kv_dtype or "auto",
        backend=spec.backend,
        tensor_parallel=spec.tensor_parallel,
    )
    planned = plan(load(spec.model), choice)
    inside = container.inside()
    return Job(planned, spec.model, spec.out, spec.revision or "", spec.calibration, spec.alpha, inside)


def dry_run_lines(job: Job, made: Recipe) -> list[str]:
    """A shell script of the whole build, comments included."""
    lines = [] if job.in_container else ["# image", shlex.join(container.image_command())]
    for step in made.steps:
        lines += [f"# {step.name}", step.shell()]
    return [*lines, f"# {job.out}/engine.json", "# accuracy gate", shlex.join(verify_argv(job, made))]


def run(job: Job, made: Recipe) -> None:
    """All steps, the engine directory, the accuracy gate. Raises ``BuildError`` when one of them fails."""
    started = datetime.datetime.now(datetime.timezone.utc)
    if not job.in_container:
        _image()
    commands = steps.run(made.steps)
    verify = verify_argv(job, made)
    info = BuildInfo(
        [*commands, shlex.join(verify)],
        started.isoformat(timespec="seconds"),
        round(steps.seconds(made.steps), 1),
        platform.node(),
    )
    with staged(job.out) as directory:
        assemble(job, made, directory, info)
    log.info("%s is complete; now the accuracy gate\n  %s", job.out, shlex.join(verify))
    if subprocess.run(verify, check=False).returncode:
        raise BuildError(f"{job.out} failed its accuracy gate (above): it stays for inspection and is not served")


def _image() -> None:
    known = subprocess.run(["docker", "image", "inspect", container.image()], capture_output=True, check=False)
    if known.returncode == 0:
        return
    command = container.image_command()
    log.info("[image] %s", shlex.join(command))
    if subprocess.run(command, check=False).returncode:
        raise BuildError(f"the image could not be built: `docker pull {pinned('tensorrt_llm', 'container')}` must work")


def assemble(job: Job, made: Recipe, directory: Path, info: BuildInfo) -> None:
    """Runtime files, tokenizer and ``engine.json`` into ``directory``. Large files are hard links where possible."""
    target = directory / ("engine" if job.backend == "engine" else "checkpoint")
    target.mkdir()
    for path in sorted(made.artefact.resolve().iterdir()):
        if path.is_file() and path.name != steps.STAMP:
            _link(path.resolve(), target / path.name)
    copy_tokenizer(made.model, directory)
    shutil.copyfile(made.shaped / "config.json", directory / "config.json")
    version = built_version(target) if job.backend == "engine" else pinned("tensorrt_llm")
    engine_dir.write(describe(job, made, directory, info, version), directory)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def built_version(directory: Path) -> str:
    """The version that trtllm-build wrote; refused when it is not the pinned one, because it would not load."""
    path = directory / "config.json"
    try:
        version = str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(
            f"{path} is no engine description ({error}): remove its step directory and build again"
        ) from error
    if version != pinned("tensorrt_llm"):
        raise BuildError(
            f"the engine says version {version}, pinned is {pinned('tensorrt_llm')}: use the pinned container"
        )
    return version


def describe(job: Job, made: Recipe, directory: Path, info: BuildInfo, version: str) -> EngineInfo:
    planned: Plan = job.plan
    name = Path(job.model).name.lower()
    vocab = int(json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    gpu = planned.choice.gpu
    return EngineInfo(
        model=ModelInfo(name, job.model, job.revision or revision_of(made.model), vocab_size=vocab),
        runtime=RuntimeInfo("tensorrt_llm", version, job.backend),
        precision=planned.precision,
        kv_dtype=planned.kv_dtype,
        limits=EngineLimits(planned.max_seq_len, planned.max_input_len, planned.max_batch_size, planned.max_num_tokens),
        gpu=GpuInfo(gpu.name, gpu.sm, planned.choice.tensor_parallel),
        rope_scaling=planned.rope_scaling,
        files=file_infos(directory),
        build=info,
    )
