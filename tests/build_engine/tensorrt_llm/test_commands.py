"""Every generated command line: golden files, the rules of TensorRT-LLM 1.2.1, and no flag that it does not have.

``UPDATE_GOLDEN=1 pytest tests/build_engine/tensorrt_llm/test_commands.py`` writes the golden file anew.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
from pathlib import Path

import pytest

from build_engine.plan import profiles
from build_engine.plan.fit import PRECISIONS, PlanRequest
from build_engine.plan.model import DEFAULT_MODEL, load
from build_engine.plan.planner import plan
from build_engine.plan.profiles import SPEEDS
from build_engine.tensorrt_llm import commands as tensorrt_llm_commands
from build_engine.tensorrt_llm.commands import Calibration
from contract import gpus
from contract.errors import BuildError
from contract.paths import ROOT

TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden" / "trtllm_commands.txt"
FLAGS = json.loads((TESTS / "data" / "trtllm_flags.json").read_text())
SHAPE = load(DEFAULT_MODEL)
MODEL, CKPT, ENGINE = Path("/m/Qwen2.5-7B-Instruct"), Path("/w/checkpoint"), Path("/w/engine")
CALIBRATION = Calibration.under(Path("/w/calibration"))
KV = {"fp8": ("bf16", "fp8"), "int8_sq": ("bf16", "int8"), "int8_wo": ("bf16", "int8"), "bf16": ("bf16",)}


def plans():
    for gpu, profile, precision in itertools.product(gpus.GPUS.values(), profiles.PROFILES.values(), PRECISIONS):
        for kv, tp, backend in itertools.product(KV[precision], (1, 2), ("engine", "pytorch")):
            asked = PlanRequest(gpu, profile, precision, kv, backend=backend, tensor_parallel=tp)
            try:
                yield plan(SHAPE, asked)
            except BuildError:
                continue
    for gpu, precision, speed in itertools.product(("h100", "h200", "l40s"), ("fp8", "bf16"), list(SPEEDS)[1:]):
        asked = PlanRequest(gpus.by_name(gpu), profiles.PROFILES["chat"], precision, speed=SPEEDS[speed])
        yield plan(SHAPE, asked)


PLANS = list(plans())
ENGINES = [p for p in PLANS if p.request.backend == "engine"]


def commands(planned) -> list[list[str]]:
    if planned.request.backend == "pytorch":
        quantized = planned.precision == "fp8"
        return [tensorrt_llm_commands.fp8_command(planned, MODEL, CKPT, CALIBRATION)] if quantized else []
    first = tensorrt_llm_commands.checkpoint_command(planned, MODEL, CKPT, CALIBRATION)
    return [first, tensorrt_llm_commands.engine_command(planned, CKPT, ENGINE)]


def title(planned) -> str:
    chosen = planned.request
    parts = (chosen.gpu.key, chosen.profile.name, planned.precision, f"kv-{planned.kv_dtype}")
    speed = "" if chosen.speed.name == "balanced" else f" {chosen.speed.name}"
    return f"## {' '.join(parts)} tp{chosen.tensor_parallel} {chosen.backend}{speed}"


def option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


def test_golden():
    lines = []
    for planned in PLANS:
        lines += [title(planned), *map(shlex.join, commands(planned))]
    text = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_fp8_context_fmha_is_said_either_way():
    """The default is on, and off again with a warning unless the KV cache is FP8."""
    for planned in ENGINES:
        wanted = "enable" if planned.kv_dtype == "fp8" else "disable"
        assert option(commands(planned)[1], "--use_fp8_context_fmha") == wanted


def test_speed_profiles():
    for planned in ENGINES:
        build, speed = commands(planned)[1], planned.request.speed.name
        hopper = planned.precision == "fp8" and planned.request.gpu.sm == 90
        assert option(build, "--gemm_swiglu_plugin") == ("fp8" if hopper and speed != "balanced" else None)
        assert option(build, "--low_latency_gemm_plugin") == ("fp8" if hopper and speed == "latency" else None)
        if speed == "latency":
            assert option(build, "--max_batch_size") == "16"
        if speed == "throughput" and hopper:
            assert (option(build, "--max_batch_size"), option(build, "--max_num_tokens")) == ("512", "16384")


def test_the_table_covers_every_precision_profile_and_gpu():
    seen = {(p.request.gpu.key, p.request.profile.name, p.precision) for p in PLANS}
    assert {gpu for gpu, _, _ in seen} == set(gpus.GPUS) - {"t4"}
    assert {(profile, precision) for _, profile, precision in seen} == set(
        itertools.product(profiles.PROFILES, PRECISIONS)
    )


def test_no_flag_that_the_tools_do_not_have():
    for planned in ENGINES:
        for command in commands(planned):
            tool = Path(command[1] if command[0] == "python3" else command[0]).name
            unknown = {part for part in command if part.startswith("--")} - set(FLAGS[tool])
            assert not unknown, (tool, unknown)


def test_compute_type_is_bf16_everywhere():
    for planned in ENGINES:
        convert, build = commands(planned)
        assert option(convert, "--dtype") == "bfloat16"
        assert "float16" not in convert and option(build, "--gemm_plugin") != "float16"


def test_gemm_plugin_is_off_for_fp8_only():
    assert {(p.precision, option(commands(p)[1], "--gemm_plugin")) for p in ENGINES} == {
        ("fp8", "disable"), ("bf16", "auto"), ("int8_sq", "auto"), ("int8_wo", "auto")
    }  # fmt: skip


def test_profiles_limits_and_logits():
    for planned in ENGINES:
        build = commands(planned)[1]
        assert option(build, "--multiple_profiles") == "enable" and "--opt_num_tokens" not in build
        assert option(build, "--logits_dtype") == "float32"
        assert option(build, "--max_seq_len") == str(planned.request.profile.max_seq_len)
        assert option(build, "--max_batch_size") == str(planned.max_batch_size)
        assert option(build, "--max_num_tokens") == str(planned.max_num_tokens)
        whole = planned.kv_dtype == "int8"  # no chunked prefill: the runtime takes prompts of one step only
        longest = min(planned.max_seq_len - 1, planned.max_num_tokens) if whole else planned.max_seq_len - 1
        assert option(build, "--max_input_len") == str(longest) == str(planned.max_input_len)
        assert option(build, "--kv_cache_type") == "paged" and option(build, "--max_beam_width") == "1"
        assert "--gather_context_logits" not in build and "--gather_all_token_logits" not in build


def test_paged_context_fmha_is_off_only_with_an_int8_kv_cache():
    for planned in ENGINES:
        wanted = "disable" if planned.kv_dtype == "int8" else "enable"
        assert option(commands(planned)[1], "--use_paged_context_fmha") == wanted


def test_int8_smoothquant_goes_through_convert_checkpoint_with_an_alpha():
    for planned in ENGINES:
        convert = commands(planned)[0]
        assert "int8_sq" not in convert
        assert ("quantize.py" in convert[1]) == (planned.precision == "fp8")
        assert (option(convert, "--smoothquant") == "0.5") == (planned.precision == "int8_sq")
        assert ({"--per_channel", "--per_token"} <= set(convert)) == (planned.precision == "int8_sq")


def test_another_alpha_is_passed_on():
    planned = next(p for p in ENGINES if p.precision == "int8_sq")
    command = tensorrt_llm_commands.checkpoint_command(planned, MODEL, CKPT, CALIBRATION, alpha=0.65)
    assert option(command, "--smoothquant") == "0.65"


def test_the_calibration_trap():
    """convert_checkpoint.py knows a data set by its path, quantize.py wants a plain directory."""
    for planned in ENGINES:
        convert = commands(planned)[0]
        path = option(convert, "--calib_dataset")
        if "quantize.py" in convert[1]:
            assert path and "cnn_dailymail" not in path
        elif planned.precision == "int8_sq" or planned.kv_dtype == "int8":
            assert path and "ccdv/cnn_dailymail" in path
        else:
            assert path is None


def test_a_quantized_kv_cache_is_asked_for_explicitly_only():
    for planned in ENGINES:
        convert = commands(planned)[0]
        assert (option(convert, "--kv_cache_dtype") == "fp8") == (planned.kv_dtype == "fp8")
        assert ("--int8_kv_cache" in convert) == (planned.kv_dtype == "int8")
    for planned in PLANS:
        if planned.request.backend == "pytorch" and planned.precision == "fp8":
            assert ("--fp8-kv" in commands(planned)[0]) == (planned.kv_dtype == "fp8")


def test_tensor_parallel_size_is_the_same_in_both_steps():
    for planned in ENGINES:
        convert, build = commands(planned)
        assert option(convert, "--tp_size") == (None if planned.request.tensor_parallel == 1 else "2")
        assert option(build, "--workers") == str(planned.request.tensor_parallel)


@pytest.mark.parametrize("gpu", ["h200", "h100", "l40s", "4090"])
def test_fp8_is_the_default_on_hopper_and_ada(gpu):
    planned = plan(SHAPE, PlanRequest(gpus.by_name(gpu), profiles.PROFILES["chat"]))
    assert option(commands(planned)[0], "--qformat") == "fp8"
