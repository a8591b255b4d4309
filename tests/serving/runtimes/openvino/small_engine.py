"""A model of random weights that runs in milliseconds, and engines over it."""

from __future__ import annotations

from pathlib import Path

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from contract.model_shape import ModelShape
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, SequenceDelta
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel

SHAPE = ModelShape("s", 2, 128, 2, 1, 256, 1024, head_dim=64)
COUNT = 24  # tokens per answer
BLOCKS = 256


def load(checkpoint: Path, home: Path, precision: str, context: int | None = None) -> PagedModel:
    out = openvino_build.build(BuildSpec(str(checkpoint), precision, "openvino", home / precision, context))
    model = PagedModel(out / openvino_build.MODEL_FILE, precision)
    model.allocate(BLOCKS)
    return model


def finish(engine: Engine) -> dict[int, list[SequenceDelta]]:
    got: dict[int, list[SequenceDelta]] = {}
    while engine.busy:
        for delta in engine.step():
            got.setdefault(delta.sequence_id, []).append(delta)
    return got


def ids(deltas: list[SequenceDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def greedy(number: int, prompt: list[int], **more: object) -> EngineRequest:
    return EngineRequest(number, prompt, Sampling(COUNT, temperature=0.0, **more))
