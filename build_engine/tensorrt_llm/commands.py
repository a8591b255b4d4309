"""Every command line of a TensorRT-LLM build, as pure functions of the plan: checkpoint → quantized → engine.

Names and rules are those of TensorRT-LLM 1.2.1 (docs/tensorrt_llm_facts.md, "Command lines"). Deliberate choices:

* BF16 compute everywhere: FP16 overflows on Qwen2.5 and answers "!!!!".
* SmoothQuant through ``convert_checkpoint.py`` with an α, never ``quantize.py --qformat int8_sq``, whose α is 1.0.
* ``--gemm_plugin disable`` for FP8, ``auto`` otherwise; several optimization profiles; paged context FMHA, which prefix
  reuse and chunked prefill need (an INT8 KV cache turns it off).
* ``--use_fp8_context_fmha`` follows the KV type: it is on by default, and the builder turns it off with a warning.
* Every limit is passed explicitly: the defaults (input 1024, batch 2048) are wrong for us, and an engine keeps them.
* ``--logits_dtype float32``: checkpoints quantized in BF16 are otherwise exported with FP16 logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engine.plan.fit import uses_plugins
from build_engine.plan.planner import EnginePlan

EXAMPLES = Path("/app/examples")  # in the Triton container; elsewhere they lie under /app/tensorrt_llm/examples
QUANTIZE = EXAMPLES / "quantization" / "quantize.py"
CONVERT = EXAMPLES / "models" / "core" / "qwen" / "convert_checkpoint.py"
CALIBRATION_SIZE = 512
CALIBRATION_TOKENS = 2048
SMOOTHQUANT_ALPHA = 0.5  # "a good first try" (convert_checkpoint.py); no reference for Qwen exists: measure 0.4…0.8


@dataclass(frozen=True, slots=True)
class Calibration:
    """The same prompts in each layout that a tool requires.

    ``text``: a directory with split ``train``, column ``text`` (quantize.py). ``article``: a directory whose path
    contains ``ccdv/cnn_dailymail``, so that convert_checkpoint.py reads split ``train``, column ``article``.
    ``lines``: JSON lines with ``text`` (build_engine.fp8).
    """

    text: Path
    article: Path
    lines: Path

    @classmethod
    def under(cls, directory: Path) -> Calibration:
        text = directory / "text"
        return cls(text, directory / "ccdv" / "cnn_dailymail", text / "train.jsonl")


def checkpoint_command(
    plan: EnginePlan, model: Path, output: Path, calibration: Calibration, alpha: float = SMOOTHQUANT_ALPHA
) -> list[str]:
    """Hugging Face checkpoint → TensorRT-LLM checkpoint in ``plan.precision``."""
    if plan.precision == "fp8":
        return _quantize(plan, model, output, calibration)
    command = ["python3", str(CONVERT), "--model_dir", str(model), "--output_dir", str(output), "--dtype", "bfloat16"]
    command += _parallel(plan)
    if plan.precision == "int8_sq":
        command += ["--smoothquant", f"{alpha:g}", "--per_channel", "--per_token"]
    elif plan.precision == "int8_wo":
        command += ["--use_weight_only", "--weight_only_precision", "int8"]
    if plan.kv_dtype == "int8":
        command += ["--int8_kv_cache"]
    if plan.precision == "int8_sq" or plan.kv_dtype == "int8":
        command += ["--calib_dataset", str(calibration.article)]
    return command


def _quantize(plan: EnginePlan, model: Path, output: Path, calibration: Calibration) -> list[str]:
    command = ["python3", str(QUANTIZE), "--model_dir", str(model), "--output_dir", str(output), "--dtype", "bfloat16"]
    command += ["--qformat", "fp8"]
    command += ["--kv_cache_dtype", "fp8"] if plan.kv_dtype == "fp8" else []
    command += ["--calib_dataset", str(calibration.text), "--calib_size", str(CALIBRATION_SIZE)]
    return [*command, "--calib_max_seq_length", str(CALIBRATION_TOKENS), *_parallel(plan)]


def _parallel(plan: EnginePlan) -> list[str]:
    return ["--tp_size", str(plan.request.tensor_parallel)] if plan.request.tensor_parallel > 1 else []


def engine_command(plan: EnginePlan, checkpoint: Path, output: Path) -> list[str]:
    """TensorRT-LLM checkpoint → engine, with the plan's limits."""
    fp8, int8_kv = plan.precision == "fp8", plan.kv_dtype == "int8"
    command = ["trtllm-build", "--checkpoint_dir", str(checkpoint), "--output_dir", str(output)]
    command += ["--max_batch_size", str(plan.max_batch_size), "--max_num_tokens", str(plan.max_num_tokens)]
    command += ["--max_input_len", str(plan.max_input_len), "--max_seq_len", str(plan.max_seq_len)]
    command += ["--max_beam_width", "1", "--gpt_attention_plugin", "auto"]
    command += ["--gemm_plugin", "disable" if fp8 else "auto"]
    command += ["--kv_cache_type", "paged", "--remove_input_padding", "enable", "--context_fmha", "enable"]
    command += ["--use_paged_context_fmha", "disable" if int8_kv else "enable"]
    command += ["--use_fp8_context_fmha", "enable" if plan.kv_dtype == "fp8" else "disable"]
    command += plan.request.speed.plugins if uses_plugins(plan.request, plan.precision) else ()
    command += ["--multiple_profiles", "enable", "--logits_dtype", "float32"]
    return [*command, "--workers", str(plan.request.tensor_parallel)]


def fp8_command(plan: EnginePlan, model: Path, output: Path, calibration: Calibration) -> list[str]:
    """Hugging Face checkpoint → FP8 Hugging Face checkpoint for the PyTorch backend and vLLM."""
    command = ["python3", "-m", "build_engine.fp8", "--model", str(model), "--output", str(output)]
    command += ["--calibration", str(calibration.lines)]
    return [*command, "--fp8-kv"] if plan.kv_dtype == "fp8" else command


def verify_command(engine: Path, reference: Path) -> list[str]:
    return ["python3", "-m", "build_engine", "verify", "--engine", str(engine), "--reference", str(reference)]
