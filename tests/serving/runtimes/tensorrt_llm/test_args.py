"""How an engine is loaded, and what it can then do."""

from __future__ import annotations

import dataclasses

import pytest

from contract.engine_dir import RuntimeInfo
from contract.errors import EngineDirectoryError
from serving.runtimes.base import CAPABILITIES, RuntimeOptions
from serving.runtimes.tensorrt_llm import args as tensorrt_llm_args
from tests.serving.runtimes.tensorrt_llm.harness import ALL, ENGINE, TORCH, TORCH_14, write_engine

SERVED = CAPABILITIES - {"return_prompt_log_probs", "guided_decoding_complete", "allowed_token_ids"}
CAPABLE = {
    ENGINE: SERVED - {"logprobs", "top_logprobs", "priority", "lora", "logit_bias"},
    TORCH: SERVED - {"top_logprobs", "priority", "lora", "logit_bias"},
    TORCH_14: SERVED - {"lora", "logit_bias"},
}


@pytest.mark.parametrize("which", ALL)
def test_capabilities_are_truthful(start, which):
    assert start(*which).runtime.capabilities == CAPABLE[which]


def test_the_gate_gets_the_most_likely_tokens_of_the_pytorch_backend_too(start):
    """``TRTLLMSampler`` would give one entry, and a gate that compares one entry passes a damaged model."""
    harness = start(*TORCH, scoring=True)
    assert harness.llm.args.sampler_type != "TRTLLMSampler" and "top_logprobs" in harness.runtime.capabilities
    harness.submit(1, [1], logprobs=21, max_tokens=1, ignore_eos=True, stop_token_ids=())
    harness.wait(1)
    assert len(harness.deltas(1)[0].top_logprobs[0]) == 20
    assert set(harness.control.unhonoured) <= {"seed"}, "what the gate asks for is honoured, and greedy needs no seed"


def test_logits_are_gathered_only_for_the_accuracy_gate(start):
    harness = start("engine", scoring=True)
    assert "logprobs" in harness.runtime.capabilities
    assert harness.llm.args.gather_generation_logits is True
    assert start("engine").llm.args.gather_generation_logits is False


def test_engine_keeps_its_own_limits(start):
    llm = start("engine", options=RuntimeOptions(max_streams=256)).llm
    assert (llm.args.max_batch_size, llm.args.max_num_tokens) == (64, 16384)
    assert llm.args.max_seq_len is None and llm.args.enable_chunked_prefill is True
    assert start("engine", options=RuntimeOptions(max_streams=8)).llm.args.max_batch_size == 8


def test_a_latency_engine_uses_cuda_graphs(start, tmp_path):
    assert start("engine").llm.args.extended_runtime_perf_knob_config is None
    from serving.runtimes.tensorrt_llm import args, env

    engine = write_engine(tmp_path / "fast", "engine", max_batch_size=16)
    engine = dataclasses.replace(engine, runtime=RuntimeInfo("tensorrt_llm", "1.2.1", "engine", "latency"))
    found = args._engine(env.load("engine"), engine, RuntimeOptions())
    knobs = found["extended_runtime_perf_knob_config"]
    assert (knobs.cuda_graph_mode, knobs.cuda_graph_cache_size) == (True, 16)


@pytest.mark.parametrize("which", [TORCH, TORCH_14])
def test_the_pytorch_backend_says_graphs_and_overlap_and_loads_a_tokenizer_for_guides(start, which):
    args = start(*which, options=RuntimeOptions(max_streams=8)).llm.args
    assert args.disable_overlap_scheduler is False
    assert (args.cuda_graph_config.max_batch_size, args.cuda_graph_config.enable_padding) == (8, True)
    assert args.guided_decoding_backend == "xgrammar" and args.skip_tokenizer_init is False


def test_the_gate_loads_the_default_sampler_of_1_2_1_without_guides(start):
    args = start(*TORCH, scoring=True).llm.args
    assert args.guided_decoding_backend is None and args.skip_tokenizer_init is True


def test_kv_cache_size_in_bytes_becomes_tokens(start):
    options = RuntimeOptions(kv_cache_bytes=57344 * 1000, gpu_memory_fraction=0.5)
    config = start("engine", options=options).llm.args.kv_cache_config
    assert (config.max_tokens, config.free_gpu_memory_fraction) == (1000, 0.5)


def test_only_known_removals_are_dropped():
    assert tensorrt_llm_args.known({"sampler_type": 1, "model": 2}, {"model"}) == {"model": 2}
    with pytest.raises(EngineDirectoryError, match="max_batch_size"):
        tensorrt_llm_args.known({"max_batch_size": 1, "model": 2}, {"model"})


def test_a_damaged_engine_description_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineDirectoryError, match="not a TensorRT engine description"):
        tensorrt_llm_args.read_engine_file(tmp_path)
    with pytest.raises(EngineDirectoryError, match="eos_token_id"):
        tensorrt_llm_args.end_ids(tmp_path)
