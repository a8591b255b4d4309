"""What core.py uses of vLLM is there in every release it accepts (tests/standins/vllm_surface_*.json, from wheels)."""

from __future__ import annotations

import ast
import json

import pytest

from contract.paths import ROOT
from contract.sampling import Guide, Sampling
from contract.versions import pinned, version_tuple
from serving.runtimes.base import RuntimeOptions
from serving.runtimes.vllm import args as vllm_args
from serving.runtimes.vllm import releases
from serving.runtimes.vllm import runtime as vllm
from tests.serving.runtimes.vllm.cases import engine

SURFACES = {path.stem.rpartition("_")[2]: path for path in (ROOT / "tests/standins").glob("vllm_surface_*.json")}
CORE = ast.parse((ROOT / "serving/runtimes/vllm/core.py").read_text(encoding="utf-8"))


@pytest.fixture(params=sorted(SURFACES))
def names(request):
    return json.loads(SURFACES[request.param].read_text(encoding="utf-8"))["names"]


def test_both_ends_of_the_range_and_the_pinned_release_were_read():
    read = {".".join(version.split(".")[:2]) for version in SURFACES}
    assert {pinned("vllm", "lowest"), pinned("vllm", "highest"), pinned("vllm").rpartition(".")[0]} <= read


def test_every_imported_name_exists(names):
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(CORE)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm")
        for alias in node.names
    }
    assert imported and imported <= set(names)


def test_engine_arguments_are_fields(tmp_path, names):
    (tmp_path / "lora/one").mkdir(parents=True)
    (tmp_path / "lora/one/adapter_config.json").write_text('{"r": 8}')
    given = vllm_args.engine_args(engine(tmp_path), RuntimeOptions(kv_cache_bytes=1 << 30))
    assert "enable_lora" in given
    assert set(given) <= set(names["vllm.engine.arg_utils.EngineArgs"]["fields"])


def test_sampling_and_guides_are_fields(names):
    given = vllm_args.sampling_args(Sampling(max_tokens=1), ())
    assert {*given, "structured_outputs", "_bad_words_token_ids"} <= set(
        names["vllm.sampling_params.SamplingParams"]["fields"]
    )
    guides = names["vllm.sampling_params.StructuredOutputsParams"]["fields"]
    for kind in ("json", "json_schema", "regex", "ebnf_grammar"):
        assert set(vllm_args.guide_args(Guide(kind, "x"))) <= set(guides)
    tag = vllm_args.guide_args(Guide("structural_tag", '{"structures": [], "triggers": []}'))
    assert set(tag) <= set(guides) and '"format"' in tag["structural_tag"]


def test_methods_and_attributes_beneath_the_public_interface(names):
    client = names["vllm.v1.engine.core_client.SyncMPClient"]
    base = names["vllm.v1.engine.core_client.MPClient"]
    made = set(names["vllm.v1.engine.core_client.EngineCoreClient"]["methods"]["make_client"])
    assert made >= {"multiprocess_mode", "asyncio_mode", "vllm_config", "executor_class", "log_stats"}
    assert client["bases"] == ["MPClient"]
    assert client["methods"]["add_request"] == ["self", "request"]
    assert client["methods"]["abort_requests"] == ["self", "request_ids"]
    assert "get_supported_tasks" in client["methods"] and "outputs_queue" in client["attributes"]
    assert "timeout" in base["methods"]["shutdown"] and "resources" in base["attributes"]
    assert {"engine_manager", "engine_dead"} <= set(names["vllm.v1.engine.core_client.BackgroundResources"]["fields"])
    assert "processes" in names["vllm.v1.engine.utils.CoreEngineProcManager"]["attributes"]
    assert names["vllm.v1.engine.utils.get_mp_context"]["parameters"] == []  # fork_server puts its own in its place
    assert "disable_any_whitespace" in names["vllm.config.structured_outputs.StructuredOutputsConfig"]["fields"]
    taken = set(names["vllm.v1.engine.input_processor.InputProcessor"]["methods"]["process_inputs"])
    assert {"request_id", "prompt", "params", "supported_tasks", "lora_request", "priority"} <= taken
    assert "external_req_id" in names["vllm.v1.engine.EngineCoreRequest"]["fields"]


def test_what_is_read_of_a_step(names):
    output = set(names["vllm.v1.engine.EngineCoreOutput"]["fields"])
    assert {"request_id", "new_token_ids", "new_logprobs", "finish_reason", "prefill_stats"} <= output
    assert {"outputs", "scheduler_stats"} <= set(names["vllm.v1.engine.EngineCoreOutputs"]["fields"])
    stats = set(names["vllm.v1.metrics.stats.SchedulerStats"]["fields"])
    assert {
        "num_running_reqs",
        "num_waiting_reqs",
        "num_skipped_waiting_reqs",
        "kv_cache_usage",
        "spec_decoding_stats",
    } <= stats
    assert {"num_prompt_tokens", "num_cached_tokens"} <= set(names["vllm.v1.metrics.stats.PrefillStats"]["fields"])
    assert names["vllm.v1.outputs.LogprobsLists"]["fields"][:2] == ["logprob_token_ids", "logprobs"]


def test_finish_reasons_are_in_vllms_order(names):
    order = names["vllm.v1.engine.FinishReason"]["members"]
    assert [vllm.FINISH[order[name]] for name in ("STOP", "LENGTH", "ABORT", "ERROR", "REPETITION")] == [
        "stop", "length", "cancelled", "error", "repetition",
    ]  # fmt: skip


def test_the_sockets_that_wake_a_reader_of_vllms_queues(names):
    condition = names["vllm.distributed.device_communicators.shm_broadcast.SpinCondition"]
    assert condition["methods"]["record_read"] == ["self"] and "local_notify_socket" in condition["attributes"]


OWN = [
    version for version in SURFACES if releases.OWN_KERNELS[0] <= version_tuple(version)[:2] < releases.OWN_KERNELS[1]
]


@pytest.mark.parametrize("version", sorted(OWN))
def test_what_our_worker_puts_its_own_in_the_place_of(version):
    """vllm and torch are not installed here, so our side is read, too."""
    assert pinned("vllm") in OWN
    names = json.loads(SURFACES[version].read_text(encoding="utf-8"))["names"]
    sampler = names["vllm.v1.worker.gpu.sample.sampler.Sampler"]
    cutlass = names["vllm.model_executor.kernels.linear.scaled_mm.cutlass.CutlassFP8ScaledMMLinearKernel"]
    assert parameters("sampler", "sample") == sampler["methods"]["sample"]
    operator = names["vllm._custom_ops.reshape_and_cache_flash"]
    assert parameters("cache_write", "reshape_and_cache_flash") == operator["parameters"]
    assert parameters("fp8_gemm", "apply_scaled_mm") == cutlass["methods"]["apply_scaled_mm"]
    worker = names["vllm.v1.worker.gpu_worker.Worker"]["methods"]
    assert "load_model" in worker and worker["compile_or_warm_up_model"] == ["self"]
    states = {"sampling_states", "penalties_state", "logit_bias_state", "bad_words_state", "logprobs_mode"}
    assert states | {"use_fp64_gumbel"} <= set(sampler["attributes"])
    sampled = set(names["vllm.v1.worker.gpu.sample.states.SamplingStates"]["attributes"])
    assert {"temperature", "top_k", "top_p", "min_p", "seeds"} <= sampled
    penalties = {"repetition_penalty", "frequency_penalty", "presence_penalty", "use_penalty", "prompt_bin_mask"}
    held = set(names["vllm.v1.worker.gpu.sample.penalties.PenaltiesState"]["attributes"])
    assert penalties | {"output_bin_counts"} <= held


@pytest.mark.parametrize("version", sorted(OWN))
def test_what_our_attention_takes_over(version):
    names = json.loads(SURFACES[version].read_text(encoding="utf-8"))["names"]
    flash = {kind: names[f"vllm.v1.attention.backends.flash_attn.FlashAttention{kind}"] for kind in (
        "Backend", "Impl", "Metadata", "MetadataBuilder",
    )}  # fmt: skip
    assert parameters("attention", "build_") == flash["MetadataBuilder"]["methods"]["build"]
    assert parameters("attention", "update_") == flash["Impl"]["methods"]["do_kv_cache_update"]
    assert parameters("attention", "forward_") == flash["Impl"]["methods"]["forward"]
    assert {"block_table", "seq_lens", "slot_mapping"} <= set(flash["Metadata"]["fields"])
    asked = {"num_heads", "num_kv_heads", "head_size", "attn_type", "kv_cache_dtype", "sliding_window", "alibi_slopes"}
    asked |= {
        "num_queries_per_kv",
        "logits_soft_cap",
        "sinks",
        "kv_sharing_target_layer_name",
        "batch_invariant_enabled",
        "scale",
    }
    assert asked <= set(flash["Impl"]["attributes"])


def test_what_our_scheduler_takes_over():
    version = next(name for name in OWN if version_tuple(name)[:2] == releases.OWN_SCHEDULER_FOR)
    names = json.loads(SURFACES[version].read_text(encoding="utf-8"))["names"]
    theirs = names["vllm.v1.core.sched.scheduler.Scheduler"]
    for method in ("_make_cached_request_data", "_update_after_schedule", "_update_request_with_output"):
        assert parameters("scheduler", method) == theirs["methods"][method]
    kept = {"use_v2_model_runner", "use_pp", "num_spec_tokens", "enable_return_routed_experts", "defer_block_free"}
    assert kept | {"current_step", "max_model_len", "_inflight_prefills"} <= set(theirs["attributes"])
    request = names["vllm.v1.request.Request"]
    added = {"num_computed_tokens", "num_in_flight_tokens", "num_output_placeholders", "next_decode_eligible_step"}
    added |= {"_output_token_ids", "_all_token_ids", "is_prefill_chunk", "spec_token_ids", "async_tokens_to_discard"}
    assert added <= set(request["attributes"])
    manager = names["vllm.v1.core.single_type_kv_cache_manager.SingleTypeKVCacheManager"]
    assert {"req_to_blocks", "num_cached_block", "block_size"} <= set(manager["attributes"])
    cached = names["vllm.v1.core.sched.output.CachedRequestData"]["fields"]
    tree = ast.parse((ROOT / "serving/runtimes/vllm/scheduler.py").read_text(encoding="utf-8"))
    made = next(
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "CachedRequestData"
    )
    assert [keyword.arg for keyword in made.keywords] == cached[: len(made.keywords)]


def parameters(module: str, function: str) -> list[str]:
    tree = ast.parse((ROOT / f"serving/runtimes/vllm/{module}.py").read_text(encoding="utf-8"))
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function)
    return [argument.arg for argument in [*found.args.args, *found.args.kwonlyargs]]
