"""Qwen2, Llama and Qwen3 as ``transformers`` has them: the FP32 engine's greedy tokens are equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engine.checkpoint import Checkpoint
from tests.build_engine.openvino.test_graph import answers
from tests.oracle import expected, tiny

pytestmark = pytest.mark.oracle
TOKENS = 48


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_greedy_tokens_equal_transformers(name: str, tmp_path: Path) -> None:
    source = tiny.write(name, tmp_path / "m")
    model, prompts = expected.load(source), tiny.prompts()
    wanted = [expected.greedy(model, prompt, TOKENS) for prompt in prompts]
    assert answers(Checkpoint(source), tmp_path, prompts, TOKENS) == wanted
