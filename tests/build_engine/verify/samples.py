"""What the gate's tests share: limits, a good result, a model's most likely tokens."""

from __future__ import annotations

import numpy as np

from build_engine.verify.metrics import Accuracy

VOCAB = 50
LIMITS = {"greedy_agreement": 0.9, "confident_agreement": 0.98, "mean_kl": 0.05, "perplexity_drift": 0.05,
          "repetition_rise": 0}  # fmt: skip
GOOD = Accuracy(100, 0.99, 1.0, 0.001, 0.0, 2, 1, -0.01)


def top(logits: np.ndarray, k: int = 20) -> list[tuple[int, float]]:
    logp = logits - np.logaddexp.reduce(logits)
    return [(int(i), float(logp[i])) for i in np.argsort(-logp)[:k]]
