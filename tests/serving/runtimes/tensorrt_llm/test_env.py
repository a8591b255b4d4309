"""What happens before ``import tensorrt_llm``."""

from __future__ import annotations

import multiprocessing
import sys

import pytest

from serving.runtimes.tensorrt_llm import env as tensorrt_llm_env


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    monkeypatch.setattr(sys, "executable", sys.executable)
    before = multiprocessing.get_start_method(allow_none=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_an_mpi_job_is_scrubbed_and_nothing_else():
    environment = {
        "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_NAMESPACE": "x", "PMI_FD": "3",
        "OMPI_MCA_orte_launch": "1", "ORTE_SCHIZO": "ompi", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1",
        "OMPI_MCA_btl": "tcp",
    }  # fmt: skip
    tensorrt_llm_env.prepare(environment)
    assert not tensorrt_llm_env.mpi_names(environment)
    assert environment["PATH"] == "/bin" and environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["OMPI_MCA_btl"] == "tcp" and environment["TRTLLM_NO_USAGE_STATS"] == "1"
    assert multiprocessing.get_start_method() == "spawn"


def test_a_stub_without_an_interpreter_gets_one(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/tritonserver/backends/python/triton_python_backend_stub")
    tensorrt_llm_env.prepare({})
    assert sys.executable.rsplit("/", 1)[-1].startswith("python3")


def test_a_users_own_setting_wins():
    environment = {"HF_HUB_OFFLINE": "0"}
    tensorrt_llm_env.prepare(environment)
    assert environment["HF_HUB_OFFLINE"] == "0"
