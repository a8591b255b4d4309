"""The probe's parts against the stand-in, with planted differences (the real thing needs a GPU)."""

from __future__ import annotations

import importlib
import json

import pytest
from rich.console import Console

from build_engine.tensorrt_llm.probe import __main__ as probe
from build_engine.tensorrt_llm.probe import findings, surface
from build_engine.tensorrt_llm.probe.findings import ProbeResult
from contract import gpus
from tests.serving.runtimes.tensorrt_llm.test_runtime import STANDINS, forget, write_engine

RECORDED = json.loads(surface.SURFACE.read_text())["tensorrt_llm==1.2.1"]


@pytest.fixture
def standin(monkeypatch):
    monkeypatch.syspath_prepend(str(STANDINS))
    forget()
    yield importlib.import_module("tensorrt_llm.control")
    forget()


@pytest.fixture
def session(standin, tmp_path):
    made = []

    def start(backend="engine", worker=False, scoring=False):
        standin.worker_process = worker
        from build_engine.tensorrt_llm.probe import behaviour

        made.append(behaviour.Session(write_engine(tmp_path / str(len(made)), backend), scoring=scoring))
        return behaviour, made[-1]

    yield start
    for one in made:
        one.runtime.close()


def statuses(found) -> dict[str, str]:
    return {finding.check: finding.status for finding in found}


@pytest.mark.parametrize("backend", ["engine", "pytorch"])
def test_a_package_as_recorded_passes(session, backend):
    behaviour, one = session(backend)
    found = statuses(behaviour.examine(one, 8000))
    assert found.pop("a penalty acts") == "differs", "the stand-in knows no penalties: a planted difference"
    assert set(found.values()) == {"pass"} and len(found) >= 5, found


def test_a_hanging_abort_is_found(session, standin, monkeypatch):
    behaviour, one = session()
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.DRAIN_S", 1.5)
    standin.hang_on_abort = True
    assert behaviour.abort(one).status == "differs"


def test_failing_answers_are_a_failure(session, standin):
    behaviour, one = session()
    standin.errors[behaviour.PROMPT] = (0, "CUDA error")
    [finding] = behaviour.examine(one, 0)
    assert finding.status == "fail" and "CUDA error" in finding.found


@pytest.mark.parametrize(("scoring", "status"), [(True, "pass"), (False, "fail")])
def test_the_number_of_log_probabilities_is_counted(session, scoring, status):
    behaviour, one = session("pytorch", scoring=scoring)
    assert behaviour.entries(one, 5).status == status


@pytest.mark.parametrize("streams", [0, 3])
def test_a_killed_worker(session, standin, streams):
    behaviour, one = session(worker=True)
    finding = behaviour.death(one, streams)
    standin.llms[-1].worker.release()
    assert finding.status == "pass" and "worker process" in finding.found


def test_the_surface_as_recorded_and_with_planted_differences(standin):
    _, found = surface.installed()
    assert set(statuses(surface.compare_fields(RECORDED, found)).values()) == {"pass"}
    del found["KvCacheConfig"]["free_gpu_memory_fraction"]
    found["SamplingParams"]["brand_new"] = {}
    planted = {f.check: f for f in surface.compare_fields(RECORDED, found) if f.status != "pass"}
    assert planted["surface of KvCacheConfig"].status == "fail"
    assert "free_gpu_memory_fraction" in planted["surface of KvCacheConfig"].found
    assert planted["surface of SamplingParams"].status == "differs" and len(planted) == 2


def test_flags_of_a_help_text():
    text = "usage: x [-h] [--max_batch_size N]\n  --gemm_plugin {auto,fp8}  see --gemm-plugin-docs, not a--b\n"
    assert surface.flags(text) == {"--max_batch_size", "--gemm_plugin", "--gemm-plugin-docs"}
    [finding] = surface.compare_flags({"t": ["--a", "--b"]}, {"t": {"--a", "--help"}})
    assert finding.status == "fail" and "--b" in finding.found


def test_facts_are_recorded_in_the_layout_of_tests_data(standin, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(surface, "help_of", lambda command: "--one --two")
    assert surface.main(["--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "tensorrt_llm_surface.json").read_text())["tensorrt_llm==1.2.1"]
    assert set(written["KvCacheConfig"]) == set(RECORDED["KvCacheConfig"])
    assert json.loads((tmp_path / "trtllm_flags.json").read_text())["trtllm-build"] == ["--one", "--two"]


def test_the_table_the_file_and_the_exit_code(tmp_path):
    rows = [ProbeResult("a", "pass", "x"), ProbeResult("b", "differs", "y", "do this")]
    findings.write(rows, tmp_path / "probe.json")
    assert findings.read(tmp_path / "probe.json") == rows and findings.exit_code(rows) == 0
    assert findings.exit_code([*rows, ProbeResult("c", "fail", "z", "do that")]) == 1
    findings.show(rows, console := Console(record=True, width=120))
    assert "do this" in console.export_text()


def test_precisions_follow_the_gpu():
    assert ("fp8", "engine") in probe.kinds(gpus.by_name("h100")) and ("int8_sq", "engine") in probe.kinds(
        gpus.by_name("a100")
    )
    assert not any(precision == "fp8" for precision, _ in probe.kinds(gpus.by_name("a100")))


def test_an_engine_that_cannot_be_asked_is_a_failure_with_its_last_line(tmp_path):
    (tmp_path / "e").mkdir()
    [finding] = probe.ask(tmp_path / "e", "answers", "e")
    assert finding.status == "fail" and finding.found and "no output" not in finding.found


def test_a_host_without_docker_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="Docker is not installed"):
        probe.main(["--out", str(tmp_path / "p")])
