"""Turns vLLM's arrays of log probabilities into the form of ``SequenceDelta``."""

from __future__ import annotations

from typing import Any

import orjson

from contract.prompt_part import PromptPart
from serving.runtimes.base import finite


def log_probs(lists: Any, count: int, wanted: int) -> tuple[list[float], list[tuple[tuple[int, float], ...]]]:
    """``LogprobsLists`` to ``SequenceDelta``'s pair, for the first ``count`` tokens.

    Its rows are [chosen, 1st, 2nd, …], as wide as the batch's widest request; ``wanted`` is ``Sampling.logprobs``.
    """
    if lists is None or not wanted:
        return [], []
    rows = lists.logprobs[:count, :wanted].tolist()
    chosen = [row[0] for row in rows]
    if wanted == 1:
        return chosen, []
    ids = lists.logprob_token_ids[:count, :wanted].tolist()
    return chosen, [tuple(zip(row_ids[1:], row[1:], strict=True)) for row_ids, row in zip(ids, rows, strict=True)]


def prompt_scores(tensors: Any, wanted: int) -> PromptPart | None:
    """``LogprobsTensors`` of a whole prompt, which come with its first token. Rows as in ``log_probs``."""
    if tensors is None or not wanted:
        return None
    rows = [list(map(finite, row)) for row in tensors.logprobs[:, :wanted].tolist()]
    ranks = tensors.selected_token_ranks.tolist()
    tops = b""
    if wanted > 1:
        ids = tensors.logprob_token_ids[:, 1:wanted].tolist()
        tops = orjson.dumps([list(zip(of, row[1:], strict=True)) for of, row in zip(ids, rows, strict=True)])
    return PromptPart((), [row[0] for row in rows], ranks, tops)
