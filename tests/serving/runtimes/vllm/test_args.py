"""What vLLM is told."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import types

import pytest

from contract.engine_dir import GpuInfo, ModelInfo, RuntimeInfo
from contract.errors import EngineDirectoryError
from contract.sampling import ANY_OBJECT, Guide, Sampling
from contract.versions import version_tuple
from serving.runtimes import guard
from serving.runtimes.base import CAPABILITIES, RuntimeOptions
from serving.runtimes.vllm import args as vllm_args
from serving.runtimes.vllm import releases
from tests.serving.runtimes.vllm.cases import engine

VLLM = CAPABILITIES - {"guided_decoding_complete"}  # only the CPU engine looks ahead to the end of a guide


def test_limits_are_always_said(tmp_path):
    options = RuntimeOptions(max_streams=7, gpu_memory_fraction=0.5)
    args = vllm_args.engine_args(engine(tmp_path, gpu=GpuInfo("g", 90, 2)), options)
    assert (args["max_num_seqs"], args["max_num_batched_tokens"], args["max_model_len"]) == (7, 8192, 64)
    assert args["tensor_parallel_size"] == 2
    assert args["gpu_memory_utilization"] == 0.5


def test_a_kv_cache_in_bytes_overrides_the_fraction(tmp_path):
    args = vllm_args.engine_args(engine(tmp_path), RuntimeOptions(kv_cache_bytes=5))
    assert (args["kv_cache_memory_bytes"], args["gpu_memory_utilization"]) == (5, vllm_args.NO_FRACTION)


def test_fp8_on_load_only_for_a_checkpoint_that_is_not_quantized(tmp_path):
    info = engine(tmp_path, "fp8")
    assert vllm_args.quantization(info) == "fp8"
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "modelopt"}}))
    assert vllm_args.quantization(info) is None


def test_dummy_weights_only_for_a_synthetic_engine_without_weights(tmp_path):
    info = engine(tmp_path, model=ModelInfo("m", "m", synthetic=True))
    assert vllm_args.load_format(info) == "dummy"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert vllm_args.load_format(info) == "auto"


def test_end_ids_are_ours_alone():
    args = vllm_args.sampling_args(Sampling(max_tokens=3, stop_token_ids=(5,)), (2,))
    assert args["ignore_eos"] is True and args["stop_token_ids"] == [5]
    guided = vllm_args.sampling_args(Sampling(max_tokens=3, ignore_eos=True, guide=Guide("json", ANY_OBJECT)), (2,))
    assert guided["stop_token_ids"] == [2]


@pytest.mark.parametrize(("wanted", "told"), [(0, None), (1, 0), (6, 5)])
def test_log_probs_count_without_the_chosen_token(wanted, told):
    assert vllm_args.sampling_args(Sampling(max_tokens=1, logprobs=wanted), ())["logprobs"] == told


def test_biases_are_a_dictionary():
    assert vllm_args.sampling_args(Sampling(max_tokens=1, logit_bias=((5, -1.5),)), ())["logit_bias"] == {5: -1.5}
    assert vllm_args.sampling_args(Sampling(max_tokens=1), ())["logit_bias"] is None


def test_an_empty_list_of_allowed_ids_is_none():
    """vLLM refuses an empty one."""
    args = vllm_args.sampling_args(Sampling(max_tokens=1, allowed_token_ids=(5, 7)), ())
    assert args["allowed_token_ids"] == [5, 7]
    assert vllm_args.sampling_args(Sampling(max_tokens=1), ())["allowed_token_ids"] is None


def test_seeds_fit_torch():
    assert vllm_args.sampling_args(Sampling(max_tokens=1, seed=2**64 - 1), ())["seed"] == 2**63 - 1
    assert vllm_args.sampling_args(Sampling(max_tokens=1, seed=9, temperature=0), ())["seed"] is None
    assert vllm_args.sampling_args(Sampling(max_tokens=1, seed=9), (), seeded=False)["seed"] is None


def test_lora_is_there_when_adapters_are(tmp_path):
    assert vllm_args.capabilities(engine(tmp_path)) == VLLM - {"lora"}
    adapter = tmp_path / "lora/poet"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"r": 12}')
    assert vllm_args.capabilities(engine(tmp_path)) == VLLM
    assert vllm_args.engine_args(engine(tmp_path), RuntimeOptions())["max_lora_rank"] == 16
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(EngineDirectoryError, match="no rank"):
        vllm_args.engine_args(engine(tmp_path), RuntimeOptions())


def test_a_speculating_engine_lacks_what_vllm_refuses_beside_it(tmp_path):
    info = engine(tmp_path, runtime=RuntimeInfo("vllm", options={"speculative_config": {"method": "ngram"}}))
    assert vllm_args.capabilities(info) == VLLM - {"lora", "min_p", "logit_bias"}
    assert vllm_args.engine_args(info, RuntimeOptions())["speculative_config"] == {"method": "ngram"}


def test_graphs_cover_every_step_that_may_hold_a_prompt_unless_the_engine_chooses_its_own(tmp_path):
    sizes = vllm_args.engine_args(engine(tmp_path), RuntimeOptions())["cudagraph_capture_sizes"]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1
    assert sizes[-1] == 2048
    assert all(larger - smaller <= max(8, 0.07 * smaller) for smaller, larger in itertools.pairwise(sizes))
    for options in ({"compilation_config": {"cudagraph_mode": "NONE"}}, {"max_cudagraph_capture_size": 512}):
        info = engine(tmp_path, runtime=RuntimeInfo("vllm", options=options))
        assert "cudagraph_capture_sizes" not in vllm_args.engine_args(info, RuntimeOptions())


def test_options_of_the_engine_override_defaults_but_not_what_the_server_sets(tmp_path):
    info = engine(tmp_path, runtime=RuntimeInfo("vllm", options={"max_num_batched_tokens": 4096}))
    assert vllm_args.engine_args(info, RuntimeOptions())["max_num_batched_tokens"] == 4096
    info = engine(tmp_path, runtime=RuntimeInfo("vllm", options={"model": "x"}))
    with pytest.raises(EngineDirectoryError, match=r"runtime.options may not set model"):
        vllm_args.engine_args(info, RuntimeOptions())


@pytest.mark.parametrize("version", [None, "0.23.2", "0.34.0", "1.0"])
def test_another_vllm_is_refused_in_one_line(version, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if version:
        (tmp_path / "vllm.py").write_text(f"__version__ = {version!r}")
    with pytest.raises(EngineDirectoryError, match="make setup-vllm") as caught:
        releases.check()
    assert "\n" not in str(caught.value)
    sys.modules.pop("vllm", None)


@pytest.mark.parametrize("version", ["0.24.0", "0.26.0", "0.33.1"])
def test_every_release_of_the_range_is_taken(version, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "vllm.py").write_text(f"__version__ = {version!r}")
    assert releases.check() == version_tuple(version)
    sys.modules.pop("vllm", None)


@pytest.mark.parametrize(
    ("release", "cuda", "told"), [((0, 24, 0), True, True), ((0, 24, 0), False, False), ((0, 26, 0), True, False)]
)
def test_the_model_runner_that_keeps_penalties_on_the_gpu_is_chosen_where_vllm_does_not(
    release, cuda, told, monkeypatch
):
    platform = types.SimpleNamespace(is_cuda=lambda: cuda)
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", types.SimpleNamespace(current_platform=platform))
    assert (releases.environment(release, {}, 1) == {releases.V2_SWITCH: "1"}) is told
    assert releases.environment(release, {"speculative_config": {"method": "ngram"}}, 1) == {}
    assert releases.MARLIN_SWITCH in releases.environment(release, {"linear_backend": "marlin"}, 1)
    assert releases.environment((0, 30, 0), {"linear_backend": "marlin"}, 1) == {}


@pytest.mark.parametrize(
    ("release", "cpu", "lacks"),
    [((0, 24, 0), False, {"allowed_token_ids"}), ((0, 25, 1), False, set()), ((0, 33, 0), True, {"seed"})],
)
def test_what_a_release_or_a_machine_cannot_do_is_refused_there(release, cpu, lacks, monkeypatch):
    platform = types.SimpleNamespace(is_cpu=lambda: cpu)
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", types.SimpleNamespace(current_platform=platform))
    assert releases.lacking(release) == lacks


@pytest.mark.parametrize(
    ("release", "gpus", "told"),
    [((0, 24, 0), 2, None), ((0, 25, 0), 2, "trtllm"), ((0, 26, 0), 2, "trtllm"), ((0, 27, 1), 4, "trtllm"),
     ((0, 28, 0), 2, None), ((0, 26, 0), 1, None)],
)  # fmt: skip
def test_no_all_reduce_over_multicast_where_vllm_does_not_look_whether_there_is_any(release, gpus, told, monkeypatch):
    platform = types.SimpleNamespace(is_cuda=lambda: True)
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", types.SimpleNamespace(current_platform=platform))
    told_by_release = releases.environment(release, {}, gpus)
    assert told_by_release.get("VLLM_FLASHINFER_ALLREDUCE_BACKEND") == told


def test_the_guard_ends_what_its_owner_leaves_behind():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    owner = (
        "import sys; sys.path.insert(0, '.'); from serving.runtimes import guard; "
        f"guard.start([{child.pid}], sys.executable); import os; os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", owner], check=False, timeout=30)
    assert child.wait(10) != 0


def test_a_guard_with_nothing_left_leaves():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    watching = guard.start([child.pid, 2**22 - 1], sys.executable)
    child.wait()
    started = time.monotonic()
    guard.stop(watching)
    assert watching.poll() == 0 and time.monotonic() - started < guard.GRACE_S


@pytest.mark.parametrize(
    ("release", "cuda", "ours"),
    [((0, 24, 0), True, True), ((0, 27, 1), True, True), ((0, 26, 0), False, False), ((0, 28, 0), True, False)],
)
def test_our_worker_runs_where_vllm_has_what_it_replaces(release, cuda, ours, monkeypatch, tmp_path):
    platform = types.SimpleNamespace(is_cuda=lambda: cuda)
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", types.SimpleNamespace(current_platform=platform))
    given = releases.own_kernels(release)
    assert set(given) == ({"worker_cls", "additional_config"} if ours else set())
    options = RuntimeInfo("vllm", options={"worker_cls": "auto"})
    assert (given | vllm_args.engine_args(engine(tmp_path, runtime=options), RuntimeOptions()))["worker_cls"] == "auto"


@pytest.mark.parametrize(("cuda", "cores", "apart"), [(True, 8, True), (True, 7, False), (False, 64, False)])
def test_scheduler_and_model_runner_are_apart_where_there_are_cores_for_both(cuda, cores, apart, monkeypatch, tmp_path):
    platform = types.SimpleNamespace(is_cuda=lambda: cuda)
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", types.SimpleNamespace(current_platform=platform))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    given = releases.processes()
    assert given == ({"distributed_executor_backend": "mp"} if apart else {})
    own = engine(tmp_path, runtime=RuntimeInfo("vllm", options={"distributed_executor_backend": "uni"}))
    assert (given | vllm_args.engine_args(own, RuntimeOptions()))["distributed_executor_backend"] == "uni"
