"""The small model, built once for each file that uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engine.synthetic import checkpoint as synthetic
from serving.runtimes.openvino.model import PagedModel
from tests.serving.runtimes.openvino.small_engine import SHAPE, load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "m"
    synthetic.write(SHAPE, path, seed=4)
    return path


@pytest.fixture(scope="module")
def exact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PagedModel:
    return load(checkpoint, tmp_path_factory.mktemp("engine"), "fp32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    shared = rng.integers(0, SHAPE.vocab, 70).tolist()
    return [
        [*shared[: rng.integers(0, 71)], *rng.integers(0, SHAPE.vocab, rng.integers(1, 60)).tolist()] for _ in range(8)
    ]
