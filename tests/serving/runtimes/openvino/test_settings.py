"""How a model is compiled for each precision and CPU."""

from __future__ import annotations

from serving.runtimes.openvino.drafts import ALWAYS, MATCHED
from serving.runtimes.openvino.settings import (
    LONG_BYTES,
    ONE_ROW_BYTES,
    crossover,
    draft_terms,
    has_long_model,
    has_one_row_model,
    properties,
)


def test_properties_are_explicit() -> None:
    old, new = frozenset({"avx2"}), frozenset({"avx2", "avx_vnni"})
    assert properties("fp32", ["FP32", "BF16"], new)["INFERENCE_PRECISION_HINT"] == "f32"
    assert properties("fp32", ["BF16"], new)["KV_CACHE_PRECISION"] == "f32"
    assert properties("bf16", ["FP32"], new)["KV_CACHE_PRECISION"] == "f16"
    assert properties("bf16", ["BF16"], new)["INFERENCE_PRECISION_HINT"] == "bf16"
    for capabilities in (["FP32"], ["FP32", "BF16"]):  # short steps take one path on every CPU with VNNI
        short = properties("int8", capabilities, new)
        assert (short["INFERENCE_PRECISION_HINT"], short["DYNAMIC_QUANTIZATION_GROUP_SIZE"]) == ("f32", 32)
    long = properties("int8", ["FP32", "BF16"], new, prefill=True)
    assert (long["INFERENCE_PRECISION_HINT"], long["DYNAMIC_QUANTIZATION_GROUP_SIZE"]) == ("bf16", 0)
    int8 = properties("int8", ["FP32"], old, threads=3)
    assert (int8["KV_CACHE_PRECISION"], int8["INFERENCE_NUM_THREADS"]) == ("u8", 3)
    assert int8["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 0
    assert properties("int8", ["FP32"], frozenset())["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 32, (
        "unknown: the plugin asks"
    )


def test_another_model_only_where_it_pays() -> None:
    amx = frozenset({"avx512_vnni", "amx_bf16"})
    assert has_long_model("int8", amx, LONG_BYTES) and has_long_model("int4", amx, 1)
    assert not has_long_model("int8", amx, LONG_BYTES + 1)
    assert not has_long_model("int8", frozenset({"avx512_bf16", "avx512_vnni"}), 1)
    assert not has_long_model("fp32", amx, 1) and not has_long_model("bf16", amx, 1)
    assert has_one_row_model("int8", ONE_ROW_BYTES) and not has_one_row_model("int8", ONE_ROW_BYTES + 1)
    assert not has_one_row_model("fp32", 1), "an exact answer does not depend on how many rows a step has"


def test_drafts_cost_nothing_definite_without_eight_bits() -> None:
    narrow, wide = (properties("int8", [], frozenset({flag})) for flag in ("avx_vnni", "avx2"))
    assert draft_terms(wide, one_row=True) is None
    assert draft_terms(narrow, one_row=True) == MATCHED and draft_terms(narrow, one_row=False) == ALWAYS
    assert MATCHED.cost > ALWAYS.cost


def test_long_steps_begin_where_the_other_model_stays_faster() -> None:
    short = {8: 1.0, 16: 2.0, 32: 4.0, 64: 8.0, 128: 16.0}
    assert crossover(short, {8: 3.0, 16: 3.0, 32: 3.0, 64: 4.0, 128: 8.0}) == 32
    assert crossover(short, {8: 0.5, 16: 3.0, 32: 5.0, 64: 7.0, 128: 8.0}) == 64, "one lucky run is no crossover"
    assert crossover(short, {8: 0.5, 16: 1.0, 32: 1.0, 64: 1.0, 128: 1.0}) == 8
    assert crossover(short, dict.fromkeys(short, 17.0)) is None
