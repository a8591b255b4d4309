"""Which precision a GPU gets, what cannot be built, and the nearest thing that can."""

from __future__ import annotations

import pytest

from build_engine.plan import profiles
from build_engine.plan.fit import PlanRequest, nearest
from build_engine.plan.model import DEFAULT_MODEL, load
from build_engine.plan.planner import plan
from contract import gpus
from contract.errors import BuildError

SHAPE = load(DEFAULT_MODEL)


def choice(gpu="h200", profile="chat", precision="auto", **rest) -> PlanRequest:
    return PlanRequest(gpus.by_name(gpu), profiles.PROFILES[profile], precision, **rest)


@pytest.mark.parametrize(
    ("gpu", "expected"), [("h200", "fp8"), ("l40s", "fp8"), ("4090", "fp8"), ("a100-80", "int8_sq"), ("b200", "fp8")]
)
def test_precision_follows_the_gpu(gpu, expected):
    assert plan(SHAPE, choice(gpu)).precision == expected


def test_vllm_on_ampere_uses_int8_compressed_tensors():
    assert plan(SHAPE, choice("a100-80", runtime="vllm")).precision == "int8"


def test_pytorch_backend_on_ampere_stays_bf16():
    assert plan(SHAPE, choice("a100-80", backend="pytorch")).precision == "bf16"


REFUSED = [
    (choice("a100-80", precision="fp8"), "needs SM89", "PRECISION=int8_sq"),
    (choice("b200", precision="int8_sq"), "beyond SM90", "PRECISION=fp8"),
    (choice("t4"), "SM75", "GPU="),
    (choice("h100", precision="int8_sq", backend="pytorch"), "needs BACKEND=engine", "PRECISION=fp8"),
    (choice("h100", precision="int8_sq", kv_dtype="fp8"), "FP8 KV cache needs precision fp8", "PRECISION=int8_sq"),
    (choice("h100", precision="fp8", kv_dtype="int8"), "INT8 KV cache needs", "PRECISION=fp8"),
    (choice("h100", tensor_parallel=3), "does not divide", "PRECISION=fp8"),
    (choice("h100", precision="fp4"), "not one of", "PRECISION=fp8"),
    (choice("a100-80", precision="int8_sq", runtime="vllm"), "not one of auto, fp8, int8, bf16", "PRECISION=int8"),
    (choice("4090", "book", "bf16", memory_fraction=0.5), "does not fit", "PRECISION="),
]


@pytest.mark.parametrize(("asked", "why", "instead"), REFUSED)
def test_refusals_say_why_and_name_what_works(asked, why, instead):
    with pytest.raises(BuildError) as caught:
        plan(SHAPE, asked)
    text = str(caught.value)
    assert why in text and instead in text and "\n" not in text


@pytest.mark.parametrize("asked", [asked for asked, _, _ in REFUSED])
def test_the_nearest_alternative_really_works(asked):
    assert plan(SHAPE, nearest(SHAPE, asked)).kv_tokens > 0
