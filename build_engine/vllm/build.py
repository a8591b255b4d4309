"""Checkpoint -> engine directory for vLLM: a Hugging Face checkpoint beside ``engine.json``.

    bf16   the checkpoint itself, hard-linked where the file system allows
    fp8    calibrated, with static scales, in ModelOpt's format (``build_engine.fp8``): the fastest, half the size
    fp8-dynamic   the checkpoint itself, which vLLM quantizes while it loads; activations are scaled while it serves
    int8   W8A8 as compressed-tensors: smoothed and rounded, or by llm-compressor (SmoothQuant + GPTQ)

A checkpoint that is already quantized is linked unchanged (``build_engine.quantized``).

No INT8 checkpoint serves both vLLM and TensorRT-LLM, but the FP8 one does (docs/tensorrt_llm_facts.md, "Quantized
checkpoints").
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from build_engine import quantized, tokenizer_check, tokenizer_files
from build_engine.calibration import datasets
from build_engine.checkpoint import Checkpoint, Tensors, require_layout, require_whole, weight_files
from build_engine.fetch import revision_of
from build_engine.plan.profiles import with_yarn
from build_engine.quantized import Quantized
from build_engine.rope import kind_of, positions_of
from build_engine.source import locate, model_name
from build_engine.spec import FP8_DYNAMIC, BuildSpec
from build_engine.staging import build_info, file_infos, link_or_copy, need_space, staged
from build_engine.tokenizer_files import dump
from build_engine.vllm import int8, parallel
from contract import engine_dir, gpus
from contract.engine_dir import EngineInfo, EngineLimits, GpuInfo, ModelInfo, RuntimeInfo
from contract.errors import BuildError
from contract.model_shape import rope_of
from contract.versions import pinned
from serving.runtimes.vllm.args import OURS

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp8", FP8_DYNAMIC, "bf16", "int8")
FP8_SM = 89
QUANTIZED = 0.6  # size of a quantized checkpoint, as a share of the BF16 one
# Tokens of one engine step, prompts and answers together. A step is as long as the gap that every open stream sees
# while a prompt is read; docs/benchmarks.md: 2048 halves TTFT and the longest gaps of 8192 at the same throughput.
STEP_TOKENS = 2048
# A draft is what followed an earlier occurrence of the last 2 to 4 tokens. Four tokens long, because a longer draft is
# seldom right to its end and each of its tokens costs a row of the step.
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
# ``runtime.backend`` of ``engine.json``.
BACKENDS = {"bf16": "", "fp8": "modelopt", FP8_DYNAMIC: "fp8-on-load", "int8": "compressed-tensors"}
LLMCOMPRESSOR_PYTHON = "LLMCOMPRESSOR_PYTHON"  # an interpreter that has llmcompressor: its pins exclude vLLM's


def build(spec: BuildSpec) -> Path:
    """See the module. Returns ``spec.out``. Raises ``BuildError`` with one line that says what to do."""
    started = time.monotonic()
    _say_where_it_cannot_be_served()
    if spec.kv_dtype == "int8":
        raise BuildError("--kv: vllm has no INT8 KV cache: KV=fp8, or leave KV= out")
    if taken := sorted(OURS & spec.vllm_args.keys()):
        raise BuildError(f"--vllm-args: {', '.join(taken)} is set by this server and its own settings: leave it out")
    source = locate(spec)
    config = _config(source, spec.context)
    parallel.require_divisible(config, spec.tensor_parallel)
    found = quantized.of_directory(source, config)
    gpu = _gpu(spec)
    precision = _kept(spec, found, gpu) if found else _precision(spec, gpu.sm if gpu else 0)
    if spec.fp8_head and precision != "fp8":
        raise BuildError(f"--fp8-head: it is a part of PRECISION=fp8, this is {precision}: leave it out")
    if spec.lora and precision == "int8" and not found and LLMCOMPRESSOR_PYTHON in os.environ:
        raise BuildError(
            f"--lora: SmoothQuant changes the activations that adapters read: leave {LLMCOMPRESSOR_PYTHON}= out"
        )
    if spec.calibration and not found:
        _require_calibrated(precision)
    with staged(spec.out) as directory:
        quantization = _write(spec, source, directory, config, found or precision)
        dump(config | quantization, directory / "config.json")
        tokenizer_check.complete(directory, config)
        for name, adapter in spec.lora:
            _copy_adapter(name, adapter, directory)
        form = found.config["quant_method"] if found else BACKENDS[precision]
        info = EngineInfo(
            model=ModelInfo(
                model_name(spec), spec.model, revision_of(source), bool(config.get("synthetic")), config["vocab_size"]
            ),
            runtime=RuntimeInfo("vllm", pinned("vllm"), form, options=options(spec)),
            precision=precision.removesuffix("-dynamic"),
            kv_dtype=spec.kv_dtype or "bf16",
            limits=limits(spec, config),
            gpu=GpuInfo(gpu.name if gpu else "", gpu.sm if gpu else 0, spec.tensor_parallel),
            rope_scaling=rope_of(config) if kind_of(config) != "default" else None,
            files=file_infos(directory),
            build=build_info(spec.command, started),
        )
        engine_dir.write(info, directory)
    return spec.out


def options(spec: BuildSpec) -> dict[str, Any]:
    """Engine arguments that ``serving/runtimes/vllm`` adds to its own."""
    chosen = {"speculative_config": dict(NGRAM)} if spec.speculate == "ngram" else {}
    return chosen | spec.vllm_args


def _copy_adapter(name: str, adapter: Path, directory: Path) -> None:
    """A LoRA adapter as peft saves it, for ``engine_dir.adapters``."""
    files = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise BuildError(f"--lora: {adapter} has no {missing[0]}: {name} must be a directory as peft saves adapters")
    target = directory / engine_dir.LORA_DIR / name
    target.mkdir(parents=True)
    for path in files:
        link_or_copy(path, target / path.name)


def limits(spec: BuildSpec, config: dict[str, Any]) -> EngineLimits:
    context = spec.context or positions_of(config)
    longest = min(spec.max_input_len or context - 1, context - 1)
    return EngineLimits(context, longest, spec.max_batch_size or 256, spec.max_num_tokens or STEP_TOKENS)


def _config(source: Path, context: int | None) -> dict[str, Any]:
    path = source / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read ({error}): --model must be a Hugging Face checkpoint") from error
    for name in ("vocab_size", "max_position_embeddings"):
        if not isinstance(config.get(name), int):
            raise BuildError(f"{path} has no {name}: --model must be a Hugging Face checkpoint")
    return config if context is None else with_yarn(config, context)


def _say_where_it_cannot_be_served() -> None:
    missing = [] if gpus.detect() else ["NVIDIA GPU"]
    missing += [] if importlib.util.find_spec("vllm") else ["vLLM (`make setup-vllm`)"]
    if missing:
        log.warning("this machine has no %s: the engine can be built here, not served", " and no ".join(missing))


def _gpu(spec: BuildSpec) -> gpus.Gpu | None:
    if spec.gpu:
        return gpus.by_name(spec.gpu)
    found = gpus.detect()
    return found[0].gpu if found else None


def _precision(spec: BuildSpec, sm: int) -> str:
    if spec.precision == "auto":
        if sm < FP8_SM:
            return "bf16"
        return "fp8" if _has_torch() else FP8_DYNAMIC
    if spec.precision in ("fp8", FP8_DYNAMIC) and sm and sm < FP8_SM:
        raise BuildError(
            f"--precision: {spec.precision} needs compute capability 8.9 (Ada, Hopper), this GPU has {sm}; use int8"
        )
    return spec.precision


def _kept(spec: BuildSpec, found: Quantized, gpu: gpus.Gpu | None) -> str:
    """The precision of a checkpoint that is served unchanged."""
    given = {"precision": spec.precision, "calibration": spec.calibration, "fp8-head": spec.fp8_head}
    quantized.require_nothing_left_to_quantize(found, given)
    if gpu and gpu.sm < found.sm:
        raise BuildError(
            f"--model: {spec.model} is {found.kind}, which needs compute capability {found.sm / 10}, this GPU has "
            f"{gpu.sm / 10}: pass the original BF16 checkpoint"
        )
    return found.precision


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _write(
    spec: BuildSpec, source: Path, directory: Path, config: dict[str, Any], form: Quantized | str
) -> dict[str, Any]:
    """Weights and tokenizer; returns what is added to ``config.json`` so that loaders recognize the format.

    ``form`` is how the source is quantized, or the precision to make of it."""
    precision = form if isinstance(form, str) else ""
    size = sum(path.stat().st_size for path in weight_files(source)) if any(source.glob("*.safetensors")) else 0
    if size:
        require_whole(source)
    if not size and (precision == "fp8" or not config.get("synthetic")):
        why = f"; without weights PRECISION={FP8_DYNAMIC} lets vLLM make them up" if config.get("synthetic") else ""
        raise BuildError(f"{source} has no *.safetensors: other weight formats cannot be served{why}")
    if precision in ("fp8", "int8"):
        need_space(spec.out, int(size * QUANTIZED))
    quantization: dict[str, Any] = {}
    if isinstance(form, Quantized):
        quantization = {"quantization_config": form.config_for(spec.kv_dtype or "bf16")}
        _link(source, directory)
    elif precision == "fp8":
        quantization = _calibrate(spec, source, directory, config)
    elif precision == "int8" and LLMCOMPRESSOR_PYTHON in os.environ:
        _compress(source, directory, _prompts(spec), os.environ[LLMCOMPRESSOR_PYTHON])
        written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        quantization = {"quantization_config": written["quantization_config"]}
    elif precision == "int8":
        quantization = {"quantization_config": int8.quantization_config()}
        if size:
            int8.export(_smoothed(spec, source), directory)
    else:
        _link(source, directory)
    tokenizer_files.copy(source, directory)
    return quantization


def _require_calibrated(precision: str) -> None:
    """Refuse prompts that nothing would read."""
    if precision not in ("fp8", "int8"):
        raise BuildError(f"--calibration: {precision} is made without prompts: leave CALIBRATION= out")


def _smoothed(spec: BuildSpec, source: Path) -> Tensors:
    """Activations' outliers moved into the weights; as stored, with a warning, where that cannot be done."""
    checkpoint = Checkpoint(source)
    require_layout(checkpoint, source)
    if spec.lora:
        why = "adapters (LORA=) read the original activations"
    elif not _has_torch():
        why = "torch is missing here (`make setup-vllm`)"
    else:
        why = ""
    if why and spec.calibration:
        raise BuildError(f"--calibration: it is for SmoothQuant, but {why}: leave CALIBRATION= out")
    if why:
        log.warning(
            "int8: %s, so the weights are rounded without SmoothQuant; a small model failed the accuracy gate this way "
            "(docs/building.md): run `make verify` before you serve it", why,
        )  # fmt: skip
        return checkpoint
    from build_engine.fp8 import export
    from build_engine.vllm.smoothing import smoothed

    return smoothed(checkpoint, export.encoded(source, _prompts(spec)))


def _prompts(spec: BuildSpec) -> list[str]:
    return datasets.read(spec.calibration) if spec.calibration else datasets.shipped()


def _calibrate(spec: BuildSpec, source: Path, directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    if not _has_torch():
        raise BuildError(
            f"--precision: fp8 is calibrated with torch, which is missing here: `make setup-vllm`, or {FP8_DYNAMIC}, "
            "which vLLM scales while serving (slower)"
        )
    from build_engine.fp8 import export

    options = export.Fp8Options(kv=spec.kv_dtype == "fp8", head=spec.fp8_head)
    export.export(source, directory, config, export.encoded(source, _prompts(spec)), options)
    return {"quantization_config": export.quantization_config(options)}


def _link(source: Path, directory: Path) -> None:
    for path in sorted([*source.glob("*.safetensors"), *source.glob("*.safetensors.index.json")]):
        link_or_copy(path, directory / path.name)


def _compress(source: Path, directory: Path, prompts: list[str], python: str) -> None:
    """Run llm-compressor in the interpreter that has it."""
    version = pinned("vllm", "llmcompressor")
    if subprocess.run([python, "-c", "import llmcompressor"], capture_output=True, check=False).returncode:
        raise BuildError(
            f"int8 needs llm-compressor, which {python} lacks: python3 -m venv .venv-int8 && .venv-int8/bin/pip "
            f"install llmcompressor=={version}, then {LLMCOMPRESSOR_PYTHON}=.venv-int8/bin/python make engine …"
        )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "calibration.jsonl"
        file.write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
        script = Path(__file__).with_name("llmcompressor_export.py")
        command = [python, str(script), "--model", str(source), "--output", str(directory), "--calibration", str(file)]
        if subprocess.run(command, check=False).returncode:
            raise BuildError(
                f"llm-compressor failed (its own lines above say why); the command was: {' '.join(command)}"
            )
