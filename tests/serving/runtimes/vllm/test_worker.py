"""Our GPU worker between what vLLM's does; vLLM and torch are not installed here, so they are stood in for."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

CACHE = "TRITON_CACHE_DIR"
PARTS = ("attention", "cache_write", "fp8_gemm", "sampler")


class VllmWorker:
    """As vLLM's first start of an engine: it points Triton at a cache beside the graph that it compiles."""

    model_runner = None
    vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_batched_tokens=8))
    warmed_up_with: str | None = None

    def load_model(self) -> None:
        os.environ[CACHE] = "/beside/the/graph"

    def get_model(self) -> Any:
        return SimpleNamespace(modules=list)

    def compile_or_warm_up_model(self) -> str:
        self.warmed_up_with = os.environ.get(CACHE)
        return "times"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    gpu_worker: Any = ModuleType("vllm.v1.worker.gpu_worker")
    gpu_worker.Worker = VllmWorker
    for name in ("vllm", "vllm.v1", "vllm.v1.worker"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, gpu_worker.__name__, gpu_worker)
    from serving.runtimes import vllm

    installed: list[str] = []
    for part in PARTS:
        done = SimpleNamespace(unwrap_lm_head=lambda *_: None, autotune=lambda *_: None)
        done.install = lambda *_, part=part: installed.append(part)
        monkeypatch.setitem(sys.modules, f"{vllm.__name__}.{part}", done)
        monkeypatch.setattr(vllm, part, done, raising=False)
    monkeypatch.delitem(sys.modules, f"{vllm.__name__}.worker", raising=False)
    made = importlib.import_module(f"{vllm.__name__}.worker").Worker()
    made.installed = installed
    yield made
    sys.modules.pop(f"{vllm.__name__}.worker", None)


@pytest.mark.parametrize("users", [None, "/of/the/user"])
def test_kernels_are_kept_where_every_start_looks_for_them(
    worker: Any, users: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, users or "")
    if users is None:
        monkeypatch.delenv(CACHE)
    worker.load_model()
    assert worker.compile_or_warm_up_model() == "times"
    assert worker.warmed_up_with == users


def test_every_part_is_installed(worker: Any) -> None:
    worker.load_model()
    assert sorted(worker.installed) == list(PARTS)
