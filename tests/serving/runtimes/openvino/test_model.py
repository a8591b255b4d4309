"""How a model is compiled for each precision and CPU."""

from __future__ import annotations

from serving.runtimes.openvino.model import TWICE_BYTES, has_prefill_model, properties


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


def test_a_second_model_only_where_it_pays() -> None:
    amx = frozenset({"avx512_vnni", "amx_bf16"})
    assert has_prefill_model("int8", amx, TWICE_BYTES) and has_prefill_model("int4", amx, 1)
    assert not has_prefill_model("int8", amx, TWICE_BYTES + 1)
    assert not has_prefill_model("int8", frozenset({"avx512_bf16", "avx512_vnni"}), 1)
    assert not has_prefill_model("fp32", amx, 1) and not has_prefill_model("bf16", amx, 1)
