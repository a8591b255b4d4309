"""The steps from a model to the runtime's files, for either backend of TensorRT-LLM. Pure: nothing runs here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from build_engine import steps
from build_engine.plan.planner import Plan
from build_engine.steps import Step
from build_engine.tensorrt_llm import commands as trtllm_commands
from build_engine.tensorrt_llm.commands import Calibration
from contract.paths import ROOT
from contract.versions import pinned
from serving.host import container
from serving.host.container import Mount


@dataclass(frozen=True, slots=True)
class Job:
    """``model`` is a hub id or a directory; ``work`` keeps the steps' outputs, so that other builds can share them."""

    plan: Plan
    model: str
    out: Path
    revision: str = ""
    calibration: Path | None = None  # a data set of the user's own
    alpha: float = trtllm_commands.SMOOTHQUANT_ALPHA
    in_container: bool = False

    @property
    def work(self) -> Path:
        return self.out.absolute().parent / ".build"

    @property
    def backend(self) -> str:
        return self.plan.choice.backend


@dataclass(frozen=True, slots=True)
class Recipe:
    """``model`` is the checkpoint the runtime's files are made from, ``artefact`` the directory that holds them."""

    steps: tuple[Step, ...]
    model: Path  # the original checkpoint: tokenizer, BF16 reference
    shaped: Path  # the same with YaRN where the context needs it
    artefact: Path


def recipe(job: Job) -> Recipe:
    """fetch → (yarn) → calibration prompts → quantize → build, less the steps this job does not need."""
    found: list[Step] = []
    model = Path(job.model).absolute()
    if not Path(job.model).is_dir():
        found.append(_fetch(job))
        model = found[-1].output
    shaped = model
    if job.plan.rope_scaling:
        found.append(_yarn(job, model))
        shaped = found[-1].output
    calibration = Calibration.under(steps.directory(job.work, "calibration", str(model), str(job.calibration)))
    if needs_calibration(job.plan):
        found.append(_calibration(job, model, calibration.text.parent))
    if job.backend == "pytorch":
        if job.plan.precision == "fp8":
            found.append(_modelopt(job, shaped, calibration))
        return Recipe(tuple(found), model, shaped, found[-1].output if job.plan.precision == "fp8" else shaped)
    found.append(_checkpoint(job, shaped, calibration))
    found.append(_engine(job, found[-1].output))
    return Recipe(tuple(found), model, shaped, found[-1].output)


def needs_calibration(plan: Plan) -> bool:
    return plan.precision in ("fp8", "int8_sq") or plan.kv_dtype == "int8"


def wrap(job: Job, argv: Sequence[str], mounts: Sequence[Mount]) -> tuple[str, ...]:
    """``argv`` as it runs: directly inside the container, else through ``docker run``."""
    return tuple(argv) if job.in_container else tuple(container.run_command(argv, mounts))


def verify_argv(job: Job, made: Recipe) -> tuple[str, ...]:
    """The accuracy gate on the finished directory; it writes its result into ``engine.json``."""
    argv = trtllm_commands.verify_command(job.out.absolute(), made.model)
    return wrap(job, argv, [Mount(ROOT), Mount(job.out.absolute(), writable=True), Mount(made.model)])


def _fetch(job: Job) -> Step:
    output = steps.directory(job.work, "fetch", job.model, job.revision)
    argv = [sys.executable, "-m", "build_engine.fetch", "--model", job.model]
    argv += ["--revision", job.revision] if job.revision else []
    return Step("fetch the checkpoint", (*argv, "--output", str(output)), output, resumes=True)


def _yarn(job: Job, model: Path) -> Step:
    length = str(job.plan.max_seq_len)
    output = steps.directory(job.work, "yarn", str(model), length)
    argv = (sys.executable, "-m", "build_engine.tensorrt_llm.yarn", "--model", str(model), "--context", length)
    return Step("stretch positions with YaRN", (*argv, "--output", str(output)), output)


def _calibration(job: Job, model: Path, output: Path) -> Step:
    argv = [sys.executable, "-m", "build_engine.calibration", "--output", str(output)]
    argv += ["--prompts", str(job.calibration.absolute())] if job.calibration else []
    return Step("write the calibration prompts", tuple(argv), output)


def _modelopt(job: Job, model: Path, calibration: Calibration) -> Step:
    output = _output(job, "fp8-checkpoint", model, calibration)
    argv = trtllm_commands.modelopt_command(job.plan, model, output, calibration)
    return Step("quantize with ModelOpt", wrap(job, argv, _mounts(job, model)), output)


def _checkpoint(job: Job, model: Path, calibration: Calibration) -> Step:
    output = _output(job, f"{job.plan.precision}-checkpoint", model, calibration)
    argv = trtllm_commands.checkpoint_command(job.plan, model, output, calibration, job.alpha)
    title = "convert the checkpoint" if job.plan.precision == "bf16" else f"quantize to {job.plan.precision}"
    return Step(title, wrap(job, argv, _mounts(job, model)), output)


def _output(job: Job, name: str, model: Path, calibration: Calibration) -> Path:
    """Named by what goes into a checkpoint: not by context or GPU, so engines of several profiles share it."""
    plan = job.plan
    parallel, alpha = str(plan.choice.tensor_parallel), f"{job.alpha:g}"
    inputs = (str(model), plan.precision, plan.kv_dtype, parallel, alpha, str(calibration.text), pinned("tensorrt_llm"))
    return steps.directory(job.work, name, job.backend, *inputs)


def _engine(job: Job, checkpoint: Path) -> Step:
    plan = job.plan
    command = trtllm_commands.engine_command(plan, checkpoint, Path("OUT"))
    output = steps.directory(job.work, f"engine-sm{plan.choice.gpu.sm}", pinned("tensorrt_llm"), *command)
    argv = trtllm_commands.engine_command(plan, checkpoint, output)
    return Step("build the engine", wrap(job, argv, _mounts(job, checkpoint)), output)


def _mounts(job: Job, source: Path) -> list[Mount]:
    """The repository, the work directory, and the source with whatever its links point to."""
    real = {path.resolve().parent for path in source.iterdir() if path.is_symlink()} if source.is_dir() else set()
    original = Path(job.model).absolute()
    outside = [original] if original.is_dir() else []
    sources = [Mount(path) for path in (*outside, source, *sorted(real)) if not path.is_relative_to(job.work)]
    return [Mount(ROOT), Mount(job.work, writable=True), *sources]
