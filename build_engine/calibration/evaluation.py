"""Prompts of the accuracy gate: combinations that calibration does not use, without answers, and long documents."""

from __future__ import annotations

import random
from collections.abc import Callable

from build_engine.calibration.prompts import chatml, compose, material, passages

SEED = 7
Count = Callable[[str], int]  # tokens of a text


def short(count: int) -> list[str]:
    """``count`` prompts of all kinds, cut where the assistant's turn begins."""
    chooser = random.Random(SEED)
    composed = [prompt.text for prompt in compose() if prompt.kind != "long"]
    heads = sorted({text.rpartition("<|im_start|>assistant\n")[0] for text in composed})
    chosen = [heads[index] for index in sorted(chooser.sample(range(len(heads)), min(count, len(heads))))]
    return [f"{head}<|im_start|>assistant\n" for head in chosen]


def long(count: int, tokens: int, count_tokens: Count) -> list[str]:
    """``count`` documents of about ``tokens`` tokens: shuffled passages in all languages with a task at the end."""
    chooser = random.Random(SEED)
    pool = [text for texts in passages().values() for text in texts]
    sizes = {text: count_tokens(text) + 4 for text in pool}
    tasks = [task.replace("\n\n{passage}", "") for key in ("en", "zh") for task in material()["passage_tasks"][key]]
    return [_document(tokens, pool, sizes, chooser.choice(tasks), chooser) for _ in range(count)]


def _document(tokens: int, pool: list[str], sizes: dict[str, int], task: str, chooser: random.Random) -> str:
    parts: list[str] = []
    room = tokens - 64
    while room > 0:
        text = chooser.choice(pool)
        parts.append(f"{len(parts) + 1}. {text}")
        room -= sizes[text]
    body = "\n\n".join(parts[:-1] or parts)
    return chatml(f"{body}\n\n{task}", material()["systems"][0])
