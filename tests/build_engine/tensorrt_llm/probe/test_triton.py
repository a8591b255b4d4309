"""The real tritonserver with the stand-in inside: what the probe reports of it, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_engine.tensorrt_llm.probe import triton
from tests.serving.runtimes.tensorrt_llm.harness import pretend_h100, write_engine_directory

SINGLE = {"TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
FACTS = {"executable": "/usr/bin/python3", "executable_before": "", "mpi": [], "mpi_before": ["PMI_RANK"],
         "tokens": 16, "reason": "length", "children": ["python3"], "user": ""}  # fmt: skip


def statuses(found) -> dict[str, str]:
    return {row.check.rpartition(": ")[2]: row.status for row in found}


@pytest.fixture(autouse=True)
def _no_shared_memory_is_left():
    """Of these tests' own: the probe names it by its process."""
    yield
    assert not list(Path("/dev/shm").glob(f"probe_{os.getpid()}_*"))


@pytest.fixture
def engine(tmp_path, monkeypatch) -> Path:
    pretend_h100(tmp_path, monkeypatch)
    monkeypatch.setenv("STANDIN_TRTLLM_WORKER", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    return write_engine_directory(tmp_path / "engine")


@pytest.mark.triton
def test_a_bare_model_answers_and_nothing_is_left(engine, tmp_path):
    rows = list(triton.bare(engine, tmp_path / "stub"))
    assert {row.status for row in rows} == {"pass"} and len(rows) == 5, rows
    assert f"uid {os.getuid()}" in rows[0].check and "none left of 1" in rows[2].found
    assert "all" in rows[-1].found and "processes ended" in rows[-1].found


@pytest.mark.triton
def test_single_process_mode_has_no_worker(engine, tmp_path):
    rows = list(triton.bare(engine, tmp_path / "stub", settings=SINGLE))
    assert {row.status for row in rows} == {"pass"} and "none: " in rows[3].found, rows


@pytest.mark.triton
def test_an_engine_that_does_not_load_is_told_with_its_reason(engine, tmp_path):
    (engine / "engine" / "config.json").write_text("{}")
    rows = list(triton.bare(engine, tmp_path / "stub"))
    assert rows[0].status == "fail" and "not a TensorRT engine description" in rows[0].found


@pytest.mark.triton
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_as_a_user_without_a_name(engine, tmp_path):
    rows = list(triton.bare(engine, tmp_path / "stub", user=triton.UNNAMED, seconds=60))
    assert "uid 12345" in rows[0].check
    reachable = all(parent.stat().st_mode & 0o005 == 0o005 for parent in (tmp_path, *tmp_path.parents))
    assert not reachable or (rows[0].status == "pass" and "without a name" in rows[0].found), rows


@pytest.mark.triton
def test_make_serve_answers_and_leaves_nothing(engine, tmp_path):
    rows = list(triton.served(engine, tmp_path / "served"))
    assert {row.check: row.status for row in rows} == {"make serve answers": "pass", "make serve stops": "pass"}, rows
    assert rows[0].found == "8 tokens"


def test_a_stub_as_expected_passes():
    assert set(statuses(triton.rows("x", FACTS, single=False)).values()) == {"pass"}


@pytest.mark.parametrize(
    ("change", "single", "check", "status"),
    [
        ({"tokens": 0, "reason": "error: x"}, False, "x", "fail"),
        ({"executable": "/opt/triton_python_backend_stub"}, False, "interpreter of the workers", "fail"),
        ({"mpi": ["PMI_RANK"]}, False, "variables of an MPI job", "fail"),
        ({"children": []}, False, "worker processes", "differs"),
        ({}, True, "worker processes", "differs"),
        ({"error": "RuntimeError: MPI_Comm_spawn"}, False, "x", "fail"),
    ],
)
def test_planted_differences_in_a_stub(change, single, check, status):
    assert statuses(triton.rows("x", FACTS | change, single=single))[check] == status


def test_a_process_that_stays_is_named_and_ended(monkeypatch):
    monkeypatch.setattr(triton, "STOP_S", 1.0)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}]).wait()"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"1\n"
    row = triton.stopped("stops", process)
    assert row.status == "fail" and "left after 1 s: python" in row.found
    assert process.poll() is not None


def test_a_server_that_had_ended_before_is_a_failure():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert triton.stopped("stops", process).status == "fail"
