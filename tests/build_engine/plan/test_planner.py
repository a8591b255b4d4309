"""The planner's arithmetic, against what vLLM 0.24 reported on one H200 and against the rules of the formats."""

from __future__ import annotations

import dataclasses
import json

import pytest

from build_engine.__main__ import main
from build_engine.plan import profiles
from build_engine.plan.fit import PlanRequest
from build_engine.plan.model import DEFAULT_MODEL, from_config, load, load_config
from build_engine.plan.planner import plan
from contract import gpus
from contract.errors import BuildError
from contract.model_shape import GIB

SHAPE = load(DEFAULT_MODEL)


def choice(gpu="h200", profile="chat", precision="auto", **rest) -> PlanRequest:
    return PlanRequest(gpus.by_name(gpu), profiles.PROFILES[profile], precision, **rest)


MEASURED = [  # weights in GiB and KV tokens, vLLM 0.24.0, H200 (143,771 MiB), fraction 0.85
    ("bf16", "bf16", 14.29, 1_925_296),
    ("fp8", "bf16", 8.2, 2_039_152),
    ("fp8", "fp8", 8.2, 4_078_240),
]


@pytest.mark.parametrize(("precision", "kv", "weights", "tokens"), MEASURED)
def test_within_five_per_cent_of_what_vllm_reported(precision, kv, weights, tokens):
    result = plan(SHAPE, choice("h200", "chat", precision, kv_dtype=kv, runtime="vllm", memory_fraction=0.85))
    assert result.weight_bytes / GIB == pytest.approx(weights, rel=0.05)
    assert result.kv_tokens == pytest.approx(tokens, rel=0.05)


def test_kv_bytes_per_token_are_56_kib_in_bf16():
    assert SHAPE.kv_bytes_per_token("bf16") == 57_344
    assert SHAPE.kv_bytes_per_token("fp8") == SHAPE.kv_bytes_per_token("int8") == 28_672


def test_decode_ceilings_of_the_reference():
    """docs/tensorrt_llm_facts.md, "Arithmetic": tokens/s of one stream in FP8 or INT8, and in BF16."""
    for gpu, quantized, bf16 in (("h200", 630, 340), ("h100", 440, 238), ("a100-80", 263, 142), ("l40s", 114, 61)):
        for precision, expected in (("auto", quantized), ("bf16", bf16)):
            floor = plan(SHAPE, choice(gpu, precision=precision)).decode_floor_ms
            assert 1000 / floor == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("gpu", [gpu for gpu in gpus.GPUS if gpu != "t4"])
@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_every_plan_holds_together(gpu, profile):
    try:
        result = plan(SHAPE, choice(gpu, profile))
    except BuildError as error:
        assert "nearest that works" in str(error)
        return
    total = result.request.gpu.memory_mib * 1024**2
    assert result.weight_bytes + result.overhead_bytes + result.kv_pool_bytes <= total
    assert result.kv_tokens >= result.max_seq_len > result.max_input_len
    assert result.max_batch_size & (result.max_batch_size - 1) == 0
    assert [row.fit for row in result.streams] == sorted((row.fit for row in result.streams), reverse=True)
    assert all(row.at_once <= result.max_batch_size and row.at_once <= row.fit for row in result.streams)
    assert result.streams[-1].context == result.max_seq_len and result.streams[-1].fit >= 1


def test_only_contexts_beyond_32768_get_yarn():
    scaling = {name: plan(SHAPE, choice("h200", name)).rope_scaling for name in profiles.PROFILES}
    assert scaling["chat"] is None and scaling["summary"] is None
    assert scaling["audit"]["factor"] == 2.0 and scaling["book"]["factor"] == 4.0
    assert scaling["book"]["original_max_position_embeddings"] == 32768
    config = profiles.with_yarn(load_config(DEFAULT_MODEL), 131072)
    assert config["max_position_embeddings"] == 131072 and config["rope_scaling"]["type"] == "yarn"


def test_tensor_parallel_halves_a_gpus_share():
    one, two = (plan(SHAPE, choice("h100", tensor_parallel=tp)) for tp in (1, 2))
    assert two.weight_bytes == one.weight_bytes // 2 and two.kv_bytes_per_token == one.kv_bytes_per_token // 2


def test_a_config_of_another_architecture_or_a_damaged_one_is_refused():
    config = load_config(DEFAULT_MODEL)
    with pytest.raises(BuildError, match="x has the model_type 'llama': with tensorrt_llm only qwen2 can be planned"):
        from_config({**config, "model_type": "llama"}, "x")
    assert from_config({**config, "model_type": "llama"}, "x", "vllm").layers == 28
    with pytest.raises(BuildError, match="model_type 'mamba': with vllm only qwen2, llama, qwen3"):
        from_config({**config, "model_type": "mamba"}, "x", "vllm")
    with pytest.raises(BuildError, match="no hidden_size"):
        from_config({key: value for key, value in config.items() if key != "hidden_size"}, "x")


def test_tied_embeddings_are_counted_once():
    tied = dataclasses.replace(SHAPE, tied=True)
    assert SHAPE.weight_bytes("bf16") - tied.weight_bytes("bf16") == 2 * 152064 * 3584
    assert tied.decode_bytes("bf16") == tied.weight_bytes("bf16")


def test_command_prints_a_table_and_json(capsys, tmp_path):
    assert main(["plan", "--gpu", "h100", "--context", "audit"]) == 0
    table = capsys.readouterr().out
    assert "KV pool" in table and "YaRN" in table and "65,536" in table
    (tmp_path / "config.json").write_text(json.dumps(load_config(DEFAULT_MODEL)))
    assert main(["plan", "--gpu", "a100", "--json", "--model", str(tmp_path), "--context", "12000"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["precision"] == "int8_sq" and data["max_seq_len"] == 12000 and data["gpu"]["sm"] == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h300"], "not known"),
        (["--gpu", "h100", "--context", "novel"], "neither a number"),
        (["--gpu", "h100", "--context", "999999"], "out of range"),
        (["--gpu", "h100", "--memory-fraction", "1.5"], "out of range"),
        (["--gpu", "h100", "--model", "/no/such/dir"], "no model at"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    assert main(["plan", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_without_a_gpu_the_command_says_what_to_pass(capsys, monkeypatch):
    monkeypatch.setattr(gpus, "detect", list)
    assert main(["plan"]) == 1
    assert "pass --gpu or GPU=" in capsys.readouterr().err


SMI = "NVIDIA H200, 143771, 143000, 9.0, 590.44.01\nNVIDIA H200, 143771, 20000, 9.0, 590.44.01\n"


def test_nvidia_smi_is_read_and_the_plan_uses_what_it_says(capsys, monkeypatch):
    found = gpus.parse_smi(SMI)
    assert [(item.gpu.key, item.gpu.sm, item.free_mib) for item in found] == [("h200", 90, 143000), ("h200", 90, 20000)]
    monkeypatch.setattr(gpus, "detect", lambda: found)
    assert main(["plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"]["name"] == "NVIDIA H200"


@pytest.mark.parametrize(
    ("line", "key", "bandwidth"),
    [
        ("NVIDIA A100-SXM4-40GB, 40960, 40000, 8.0, 580.95.05", "a100-40", 1555),
        ("NVIDIA A100-SXM4-80GB, 81920, 80000, 8.0, 580.95.05", "a100-80", 2039),
        ("NVIDIA GeForce RTX 4090, 24564, 24000, 8.9, 590.44.01", "4090", 1008),
        ("NVIDIA H100 PCIe, 81559, 81000, 9.0, 580.95.05", "h100-pcie", 2000),
        ("NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 580.95.05", "h100", 3350),
        ("NVIDIA RTX 6000 Ada Generation, 49140, 48000, 8.9, 580.95.05", "NVIDIA RTX 6000 Ada Generation", 0),
    ],
)
def test_gpus_are_recognized(line, key, bandwidth):
    gpu = gpus.parse_smi(line)[0].gpu
    assert (gpu.key, gpu.bandwidth_gb_s) == (key, bandwidth)


def test_an_unknown_gpu_is_planned_without_a_decode_floor(capsys, monkeypatch):
    line = "NVIDIA RTX 6000 Ada Generation, 49140, 48000, 8.9, 580.95.05"
    monkeypatch.setattr(gpus, "detect", lambda: gpus.parse_smi(line))
    assert main(["plan"]) == 0
    assert "unknown" in capsys.readouterr().out


def test_nonsense_from_nvidia_smi_is_one_line():
    with pytest.raises(BuildError, match="not understood"):
        gpus.parse_smi("No devices were found")


@pytest.mark.parametrize("model", ["smollm2", "synthetic", "/models/some.GGUF"])
def test_a_model_for_the_cpu_is_no_gpus_business(model):
    with pytest.raises(BuildError, match=f"--model: {model} is for the CPU engine"):
        load_config(model)


def test_the_backend_is_tensorrt_llms():
    with pytest.raises(BuildError, match="BACKEND=pytorch is for tensorrt_llm only: vllm has one"):
        plan(SHAPE, choice("h100", runtime="vllm", backend="pytorch"))
