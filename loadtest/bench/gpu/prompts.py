"""Prompts of an exact token length, alike for every contender, never the same twice (prefix caches must not help)."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

WORD = re.compile(r" [a-z]{2,}")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """``texts[i]`` encodes to exactly ``ids[i]``."""

    texts: list[str]
    ids: list[list[int]]

    def write_jsonl(self, path: Path) -> Path:
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in self.texts), encoding="utf-8")
        return path


class PromptMaker:
    """Random sequences of single-token words: " word" tokens stay themselves when they are joined and encoded again."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        size = min(60_000, self._tokenizer.get_vocab_size())
        words = ((i, self._tokenizer.decode([i])) for i in range(size))
        self._words = [(i, text) for i, text in words if WORD.fullmatch(text)]

    def make(self, count: int, length: int, seed: int, shared: int = 0) -> PromptSet:
        """``count`` prompts of ``length`` tokens, after ``shared`` tokens that all prompts of all calls begin with.

        Raises ``ValueError`` if one does not encode to its own ids."""
        rng = random.Random(seed)
        prefix = random.Random(0).choices(self._words, k=shared)
        texts, ids = [], []
        for _ in range(count):
            chosen = prefix + rng.choices(self._words, k=length)
            text = "".join(word for _, word in chosen)
            if self._tokenizer.encode(text).ids != [i for i, _ in chosen]:
                raise ValueError(f"{text[:60]!r}… does not encode to its own tokens with this tokenizer")
            texts.append(text)
            ids.append([i for i, _ in chosen])
        return PromptSet(texts, ids)
