"""The plan and steps of a TensorRT-LLM build, decided before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from build_engine import steps
from build_engine.plan.planner import EnginePlan
from build_engine.quantized import Quantized
from build_engine.spec import BuildSpec
from build_engine.staging import sha256
from build_engine.steps import Step
from build_engine.tensorrt_llm import commands
from build_engine.tensorrt_llm.commands import Calibration
from contract.paths import ROOT
from contract.versions import pinned
from serving.host import container
from serving.host.container import Mount


def fingerprint(prompts: Path | None) -> str:
    """The content of a user's calibration files, so that edited prompts are another step; "" for the shipped ones."""
    if prompts is None:
        return ""
    files = sorted(path for path in prompts.rglob("*") if path.is_file()) if prompts.is_dir() else [prompts]
    return " ".join(sha256(path) for path in files)


def calibrates(plan: EnginePlan) -> bool:
    return plan.precision in ("fp8", "int8_sq") or plan.kv_dtype == "int8"


class Recipe:
    """The steps of one build: fetch, (YaRN), calibration prompts, quantize, build, without those it does not need.

    ``model`` is the original checkpoint (tokenizer, BF16 reference), ``shaped`` the same with YaRN where the context
    needs it and with positions spelled for older readers (``respell``), ``artefact`` the directory that will hold the
    runtime's files. Outputs of steps stay in ``work``, where other builds find them. A model that is already
    ``quantized`` is served unchanged.
    """

    def __init__(
        self,
        spec: BuildSpec,
        plan: EnginePlan,
        *,
        in_container: bool = False,
        quantized: Quantized | None = None,
        respell: bool = False,
    ) -> None:
        self.spec, self.plan, self.in_container, self.quantized = spec, plan, in_container, quantized
        self.backend = plan.request.backend
        self.alpha = commands.SMOOTHQUANT_ALPHA if spec.alpha is None else spec.alpha
        self.work = spec.out.absolute().parent / ".build"
        self.steps: list[Step] = []
        self.model = Path(spec.model).absolute() if Path(spec.model).is_dir() else self._fetch()
        self.shaped = self._stretch() if plan.rope_scaling or respell else self.model
        prompts = steps.directory(self.work, "calibration", str(self.model), fingerprint(spec.calibration))
        self.calibration = Calibration.under(prompts)
        if calibrates(plan) and not quantized:
            self._write_calibration(prompts)
        if self.backend == "engine":
            self.artefact = self._build(self._convert())
        else:
            self.artefact = self._fp8() if plan.precision == "fp8" and not quantized else self.shaped

    def verify_argv(self) -> tuple[str, ...]:
        """The accuracy gate on the finished directory; it writes its result into ``engine.json``."""
        out = self.spec.out.absolute()
        argv = commands.verify_command(out, self.model)
        return self._wrapped(argv, [Mount(ROOT), Mount(out, writable=True), Mount(self.model)])

    def _add(self, name: str, argv: Sequence[str], output: Path, *, resumes: bool = False) -> Path:
        self.steps.append(Step(name, tuple(argv), output, resumes=resumes))
        return output

    def _wrapped(self, argv: Sequence[str], mounts: Sequence[Mount]) -> tuple[str, ...]:
        """``argv`` as it runs: directly inside the container, else through ``docker run``."""
        return tuple(argv) if self.in_container else tuple(container.run_command(argv, mounts))

    def _calibrated(self, argv: Sequence[str]) -> list[str]:
        """Give each set of prompts a cache of its own: ``datasets`` caches by name and version, not by content, so a
        second set would silently be replaced by the first."""
        needs = any("calib" in part for part in argv)
        return ["env", f"HF_DATASETS_CACHE={self.calibration.text.parent / 'cache'}", *argv] if needs else list(argv)

    def _fetch(self) -> Path:
        revision = self.spec.revision or ""
        output = steps.directory(self.work, "fetch", self.spec.model, revision)
        argv = [sys.executable, "-m", "build_engine.fetch", "--model", self.spec.model]
        argv += ["--revision", revision] if revision else []
        return self._add("fetch the checkpoint", [*argv, "--output", str(output)], output, resumes=True)

    def _stretch(self) -> Path:
        length = str(self.plan.max_seq_len)
        output = steps.directory(self.work, "yarn", str(self.model), length)
        argv = [sys.executable, "-m", "build_engine.tensorrt_llm.yarn", "--model", str(self.model)]
        argv += ["--context", length, "--output", str(output)]
        name = "stretch positions with YaRN" if self.plan.rope_scaling else "spell positions for older readers"
        return self._add(name, argv, output)

    def _write_calibration(self, output: Path) -> None:
        argv = [sys.executable, "-m", "build_engine.calibration", "--output", str(output)]
        argv += ["--prompts", str(self.spec.calibration.absolute())] if self.spec.calibration else []
        self._add("write the calibration prompts", argv, output)

    def _fp8(self) -> Path:
        output = self._quantized("fp8-checkpoint")
        argv = commands.fp8_command(self.plan, self.shaped, output, self.calibration)
        return self._add("quantize to FP8", self._wrapped(argv, self._mounts(self.shaped)), output)

    def _convert(self) -> Path:
        precision = self.plan.precision
        output = self._quantized(f"{precision}-checkpoint")
        argv = commands.checkpoint_command(self.plan, self.shaped, output, self.calibration, self.alpha)
        name = "convert the checkpoint" if precision == "bf16" else f"quantize to {precision}"
        return self._add(name, self._wrapped(self._calibrated(argv), self._mounts(self.shaped)), output)

    def _quantized(self, name: str) -> Path:
        """Named after what determines a checkpoint, not after context or GPU, so that engines can share it."""
        plan = self.plan
        inputs = (
            self.backend, str(self.shaped), plan.precision, plan.kv_dtype, str(plan.request.tensor_parallel),
            f"{self.alpha:g}", str(self.calibration.text), pinned("tensorrt_llm"),
        )  # fmt: skip
        return steps.directory(self.work, name, *inputs)

    def _build(self, checkpoint: Path) -> Path:
        command = commands.engine_command(self.plan, checkpoint, Path("OUT"))
        name = f"engine-sm{self.plan.request.gpu.sm}"
        output = steps.directory(self.work, name, pinned("tensorrt_llm"), *command)
        argv = commands.engine_command(self.plan, checkpoint, output)
        return self._add("build the engine", self._wrapped(argv, self._mounts(checkpoint)), output)

    def _mounts(self, source: Path) -> list[Mount]:
        """The repository, the work directory, and the source with the targets of its links."""
        real = {path.resolve().parent for path in source.iterdir() if path.is_symlink()} if source.is_dir() else set()
        original = Path(self.spec.model).absolute()
        outside = [original] if original.is_dir() else []
        sources = [Mount(path) for path in (*outside, source, *sorted(real)) if not path.is_relative_to(self.work)]
        return [Mount(ROOT), Mount(self.work, writable=True), *sources]
