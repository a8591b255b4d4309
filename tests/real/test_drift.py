"""What rounding costs on English text: perplexity of BF16 and INT8 against FP32, over the shipped licence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from tokenizers import Tokenizer

from build_engine.openvino.build import MODEL_FILE
from contract.paths import ROOT
from serving.runtimes.openvino.model import cpu_flags, properties

TOKENS, WINDOW = 2048, 512
REFERENCE = 17.9  # perplexity in FP32; a wrong weight or rotation makes it hundreds


def perplexity(engine: Path, precision: str, prefill: bool = False) -> float:
    tokenizer = Tokenizer.from_file(str(engine / "tokenizer.json"))
    ids = tokenizer.encode((ROOT / "LICENSE").read_text(), add_special_tokens=False).ids[: TOKENS + 1]
    core = ov.Core()
    settings = properties(
        precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), cpu_flags(), prefill=prefill
    )
    del settings["KV_CACHE_PRECISION"]  # nothing is read back from a cache here
    model = core.compile_model(str(engine / MODEL_FILE), "CPU", settings)
    losses = []
    for start in range(0, TOKENS, WINDOW):
        window = np.array([ids[start : start + WINDOW]], np.int64)
        inputs = {"input_ids": window, "attention_mask": np.ones_like(window), "beam_idx": np.zeros(1, np.int32)}
        inputs["position_ids"] = np.arange(WINDOW, dtype=np.int64)[None]
        logits = model.create_infer_request().infer(inputs)["logits"][0].astype(np.float64)
        top = logits.max(-1)
        spread = np.log(np.exp(logits - top[:, None]).sum(-1)) + top
        losses.append(spread - logits[np.arange(WINDOW), ids[start + 1 : start + WINDOW + 1]])
    return float(np.exp(np.concatenate(losses).mean()))


def test_rounding_costs_little(engines: dict[str, Path]) -> None:
    exact = perplexity(engines["fp32"], "fp32")
    assert exact == pytest.approx(REFERENCE, rel=0.01)
    drift = {precision: perplexity(engines[precision], precision) / exact - 1 for precision in ("bf16", "int8")}
    drift["int8 prefill"] = perplexity(engines["int8"], "int8", prefill=True) / exact - 1
    print(drift)
    assert max(map(abs, drift.values())) < 0.01, drift
