"""How likely a prompt's tokens were: rows of logits to log probabilities, ranks and alternatives. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from contract.prompt_part import PromptPart
from serving.runtimes.openvino.sampling import top


def score(rows: npt.NDArray[np.float32], tokens: Sequence[int], alternatives: int) -> PromptPart:
    """``tokens[i]`` followed where ``rows[i]`` [vocab] are the logits. One row at a time: 128 of them at once would
    take several times the memory of the logits."""
    log_probs, ranks, tops = [], [], []
    weights = np.empty_like(rows[0])
    for row, token in zip(rows, tokens, strict=True):
        best = row.max()
        np.exp(np.subtract(row, best, out=weights), out=weights)
        total = best + np.log(weights.sum())
        log_probs.append(float(row[token] - total))
        ranks.append(1 + int(np.count_nonzero(row > row[token])))
        if alternatives:
            tops.append([[int(i), float(row[i] - total)] for i in top(row, alternatives)])
    return PromptPart((), log_probs, ranks, orjson.dumps(tops) if tops else b"")
