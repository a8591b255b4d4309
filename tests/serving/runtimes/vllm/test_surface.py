"""What core.py uses of vLLM is there in every release it accepts (tests/standins/vllm_surface_*.json, from wheels)."""

from __future__ import annotations

import ast
import json

import pytest

from contract.paths import ROOT
from contract.sampling import Guide, Sampling
from contract.versions import pinned
from serving.runtimes.base import RuntimeOptions
from serving.runtimes.vllm import args as vllm_args
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
