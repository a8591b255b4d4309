"""The accuracy gate with transformers as reference: OpenVINO INT8 against the checkpoint it was made from."""

from __future__ import annotations

import numpy as np
import pytest

from build_engine.__main__ import main
from build_engine.synthetic import checkpoint as synthetic
from build_engine.verify import gate as verify
from build_engine.verify.torch_reference import TorchScorer
from contract import engine_dir
from tests.oracle import tiny

pytestmark = pytest.mark.oracle


def test_openvino_int8_against_transformers(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "TARGET_TOKENS", 8)
    monkeypatch.setattr(verify, "ANSWER_TOKENS", 48)
    build = ["build", "--model", "synthetic", "--precision", "int8", "--runtime", "openvino", "--context", "2048"]
    assert main([*build, "--out", str(tmp_path / "int8")]) == 0
    reference = synthetic.cached("synthetic")
    arguments = ["verify", "--engine", str(tmp_path / "int8"), "--reference", str(reference), "--prompts", "6"]
    assert main([*arguments, "--long", "0"]) == 0
    accuracy = engine_dir.read(tmp_path / "int8").accuracy
    assert accuracy["reference"].startswith("transformers float32") and accuracy["passed"] is True
    assert accuracy["confident_agreement"] >= 0.98 and abs(accuracy["perplexity_drift"]) < 0.03


@pytest.mark.parametrize("name", ["qwen2", "llama", "qwen3"])
def test_prompts_side_by_side_are_answered_as_each_alone(name, tmp_path):
    scorer = TorchScorer(tiny.write(name, tmp_path / name))
    rng = np.random.default_rng(5)
    prompts = [rng.integers(2, tiny.VOCAB, length).tolist() for length in (40, 7, 93, 40, 1)]
    together = scorer.answer(prompts, 24, greedy=True)
    assert together == [scorer.answer([prompt], 24, greedy=True)[0] for prompt in prompts]
    assert [len(answer) for answer in scorer.answer(prompts, 9, greedy=False)] == [9] * len(prompts)
