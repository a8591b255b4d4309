"""``start(backend, version)`` and ``harness``: the adapter on the stand-in, as either backend and version."""

from __future__ import annotations

import pytest

from serving.runtimes.base import RuntimeOptions
from tests.serving.runtimes.tensorrt_llm.harness import ALL, STANDINS, Harness, forget


@pytest.fixture
def start(monkeypatch, tmp_path):
    """``start(backend, version)`` → Harness. The stand-in's modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(STANDINS))
    made = []

    def build(backend="engine", version="1.2.1", options=None, **create) -> Harness:
        monkeypatch.setenv("STANDIN_TRTLLM_VERSION", version)
        forget()
        folder = tmp_path / f"engine{len(made)}"
        made.append(Harness(folder, backend, version, options or RuntimeOptions(), **create))
        return made[-1]

    forget()
    yield build
    for harness in made:
        harness.runtime.close()
    forget()


@pytest.fixture(params=ALL, ids=["engine", "pytorch-1.2.1", "pytorch-1.4"])
def harness(request, start) -> Harness:
    return start(*request.param)
