"""The comparison with ``tests/data``: rows for the probe, a diff and files for people."""

from __future__ import annotations

import copy
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from build_engine.tensorrt_llm.probe import facts, surface
from contract.errors import BuildError

RECORDED = facts.recorded("tensorrt_llm", "1.2.1")


def planted(found) -> dict:
    return {row.check: row for row in facts.compare(RECORDED, found) if row.status != "pass"}


@pytest.fixture
def found(standin) -> dict:
    return copy.deepcopy(surface.tensorrt_llm()[1])


@pytest.fixture
def modelopt(monkeypatch):
    """Modules with what the recorded ModelOpt 0.37 has."""
    recorded = facts.recorded("nvidia-modelopt", "0.37.0")
    for name in ("modelopt", "modelopt.torch"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    configs = {name: {} for name in recorded["quantization configs"]}
    quantization = SimpleNamespace(quantize=lambda model, config, forward_loop=None: None, **configs)
    export = SimpleNamespace(export_hf_checkpoint=lambda model, dtype=None, export_dir="", save_modelopt_state=False: 0)
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", quantization)
    monkeypatch.setitem(sys.modules, "modelopt.torch.export", export)
    sys.modules["modelopt"].__version__ = "0.37.0"
    return SimpleNamespace(quantization=quantization, export=export)


def test_the_surface_as_recorded_passes(found):
    assert planted(found) == {}


def test_what_we_use_and_is_gone_fails_and_all_else_differs(found):
    del found["KvCacheConfig"]["free_gpu_memory_fraction"]  # we pass it
    del found["TorchLlmArgs"]["batch_wait_timeout_ms"]  # we do not
    found["SamplingParams"]["brand_new"] = {}
    found["CompletionOutput"].remove("token_ids")
    found["finish_reason"].remove("timeout")
    rows = planted(found)
    assert {check: row.status for check, row in rows.items()} == {
        "surface of KvCacheConfig": "fail", "surface of TorchLlmArgs": "differs",
        "surface of SamplingParams": "differs", "surface of CompletionOutput": "fail",
        "surface of finish_reason": "fail",
    }  # fmt: skip
    assert "free_gpu_memory_fraction" in rows["surface of KvCacheConfig"].found
    assert "1 new (brand_new)" in rows["surface of SamplingParams"].found


def test_what_we_use_is_what_the_golden_files_show():
    ours = facts.passed()
    assert {"sampler_type", "cuda_graph_config", "disable_overlap_scheduler"} <= ours["TorchLlmArgs"]
    assert "free_gpu_memory_fraction" in ours["KvCacheConfig"] and "end_id" in ours["SamplingParams"]
    for section, listed in facts.READ.items():
        package = "nvidia-modelopt" if section.startswith(("modelopt", "quantization")) else "tensorrt_llm"
        assert listed <= facts.names(facts.recorded(package, "")[section]), section


def test_flags_of_ours_that_are_gone_fail():
    known = set(json.loads(facts.FLAGS.read_text())["trtllm-build"])
    assert facts.compare_flags("trtllm-build", known).status == "pass"
    assert facts.compare_flags("trtllm-build", known - {"--strip_plan"} | {"--new"}).status == "differs"
    row = facts.compare_flags("trtllm-build", known - {"--gemm_plugin"})
    assert row.status == "fail" and "--gemm_plugin" in row.found


def test_a_missing_package_or_tool_is_a_row_of_its_own(standin, modelopt, monkeypatch):
    def no_help(command):
        raise BuildError(f"`{command[0]}` cannot be started")

    monkeypatch.setattr(surface, "tool_flags", no_help)
    monkeypatch.setitem(sys.modules, "modelopt.torch.export", None)
    rows = {row.check: row for row in facts.examine()}
    assert rows["surface of nvidia-modelopt"].status == rows["flags of trtllm-build"].status == "fail"
    assert rows["surface of SamplingParams"].status == "pass", "the others are still compared"


def test_modelopt_is_compared_by_what_quantize_py_looks_up(standin, modelopt, monkeypatch):
    monkeypatch.setattr(surface, "tool_flags", lambda command: set())
    assert {row.status for row in facts.examine() if "odelopt" in row.check or "config" in row.check} == {"pass"}
    del modelopt.quantization.FP8_DEFAULT_CFG
    modelopt.export.export_hf_checkpoint = lambda model, out: 0
    rows = {row.check: row.status for row in facts.examine()}
    assert rows["surface of quantization configs"] == "fail"
    assert rows["surface of modelopt.torch.export.export_hf_checkpoint"] == "differs"


def test_a_diff_that_people_can_read(found):
    old = {"gone": {"type": "int", "default": "1"}, "kept": {"type": "int", "default": "None -> 8192"},
           "same": {"type": "str", "default": "'auto'"}}  # fmt: skip
    new = {"kept": {"type": "int", "default": "2048"}, "same": {"type": "Any", "default": "'auto'"},
           "fresh": {"type": "bool", "default": "False"}}  # fmt: skip
    assert facts.diff(old, new) == ["  - gone", "  + fresh: bool = False", "  ~ kept: None → 2048"]
    assert facts.diff(["(property) length", "text"], ["length", "tokens"]) == ["  - text", "  + tokens"]


def test_facts_are_written_in_the_layout_of_tests_data_with_the_diff(standin, modelopt, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(surface, "tool_flags", lambda command: {"--one", "--two"})
    assert facts.main(["--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "tensorrt_llm_surface.json").read_text())
    assert set(written) == {"tensorrt_llm==1.2.1", "nvidia-modelopt==0.37.0"}
    assert facts.names(written["tensorrt_llm==1.2.1"]["KvCacheConfig"]) == facts.names(RECORDED["KvCacheConfig"])
    assert json.loads((tmp_path / "trtllm_flags.json").read_text())["trtllm-build"] == ["--one", "--two"]
    out = capsys.readouterr().out
    assert "KvCacheConfig: as recorded" in out and "  - --gemm_plugin" in out and "  + --one" in out


def test_outside_the_container_one_line_says_where_to_run_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(SystemExit):
        facts.main(["--output", str(tmp_path)])
    error = capsys.readouterr().err
    assert "run inside nvcr.io/nvidia/tritonserver" in error and error.count("\n") == 1
