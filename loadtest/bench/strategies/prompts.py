"""Real text as token ids, for the measurements that call a model without a server."""

from __future__ import annotations

import random
from pathlib import Path

from loadtest.prompts import corpus

SEED = 1


def token_ids(engine: Path, lengths: list[int]) -> list[list[int]]:
    """One English prompt of exactly each length, by the tokenizer of the engine directory; each begins differently."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(engine / "tokenizer.json"))
    rng = random.Random(SEED)
    texts = corpus("en", rng)
    return [
        tokenizer.encode(texts.text(rng, 2 * length + 16), add_special_tokens=False).ids[:length] for length in lengths
    ]
