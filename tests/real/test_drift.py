"""What rounding costs on English text: perplexity of BF16 and INT8 against FP32, over English text that ships.

``.venv/bin/python -m pytest tests/real/test_drift.py -s`` prints the figures with their standard errors.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from tokenizers import Tokenizer

from build_engine.openvino.build import MODEL_FILE
from contract.paths import ROOT
from loadtest.prompts import corpus
from serving.runtimes.openvino.settings import cpu_flags, properties
from tests.real.conftest import Built

pytestmark = pytest.mark.real
WINDOW = 512
REFERENCE = 25.2  # perplexity in FP32; a wrong weight or rotation makes it hundreds
MOST = 0.01


def english() -> str:
    passages = json.loads((ROOT / "build_engine/calibration/passages.json").read_text(encoding="utf-8"))["en"]
    paragraphs = corpus("en", random.Random(0)).paragraphs
    return "\n\n".join([(ROOT / "LICENSE").read_text(encoding="utf-8"), *passages, *paragraphs])


def losses(engine: Path, precision: str, prefill: bool = False) -> npt.NDArray[np.float64]:
    """Negative log-likelihood of each token of ``english()`` from the second of its window on."""
    tokenizer = Tokenizer.from_file(str(engine / "tokenizer.json"))
    ids = tokenizer.encode(english(), add_special_tokens=False).ids
    core = ov.Core()
    settings = properties(
        precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), cpu_flags(), prefill=prefill
    )
    del settings["KV_CACHE_PRECISION"]  # nothing is read back from a cache here
    request = core.compile_model(str(engine / MODEL_FILE), "CPU", settings).create_infer_request()
    found = []
    for start in range(0, len(ids) - WINDOW, WINDOW):
        window = np.array([ids[start : start + WINDOW]], np.int64)
        inputs = {"input_ids": window, "attention_mask": np.ones_like(window), "beam_idx": np.zeros(1, np.int32)}
        inputs["position_ids"] = np.arange(WINDOW, dtype=np.int64)[None]
        request.reset_state()
        logits = request.infer(inputs)["logits"][0]
        top = logits.max(-1)
        spread = np.log(np.exp(logits - top[:, None]).sum(-1, dtype=np.float64)) + top
        found.append(spread - logits[np.arange(WINDOW), ids[start + 1 : start + WINDOW + 1]])
    return np.concatenate(found)


def test_rounding_costs_little(built: Built) -> None:
    exact = losses(built("fp32"), "fp32")
    print(f"\n{len(exact)} tokens, perplexity in FP32 {np.exp(exact.mean()):.2f}")
    assert np.exp(exact.mean()) == pytest.approx(REFERENCE, rel=0.01)
    kinds = {"bf16": ("bf16", False), "int8": ("int8", False), "int8, long steps with AMX": ("int8", True)}
    drifts = {}
    for name, (precision, prefill) in kinds.items():
        more = losses(built(precision), precision, prefill) - exact
        drifts[name] = float(np.exp(more.mean()) - 1)
        print(f"{name}: {drifts[name]:+.2%} ± {more.std() / len(more) ** 0.5:.2%}")
    assert max(map(abs, drifts.values())) < MOST, drifts
