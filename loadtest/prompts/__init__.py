"""The shipped texts, Chinese and English, and how they are cut to a length.

Lengths are asked for in tokens and met in characters (``chars_per_token`` of Qwen2.5's vocabulary on these texts), so
that the generator needs no tokenizer; the report gives the prompt tokens that the server counted.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from loadtest.errors import LoadtestError

LANGUAGES = ("en", "zh", "mixed")


@dataclass(frozen=True, slots=True)
class Corpus:
    chars_per_token: float
    system: str
    questions: tuple[str, ...]
    followups: tuple[str, ...]
    answers: tuple[str, ...]
    code_tasks: tuple[str, ...]
    paragraphs: tuple[str, ...]

    def text(self, rng: random.Random, tokens: int) -> str:
        """About ``tokens`` tokens of prose. It opens with a drawn number so that no prefix cache meets it by chance."""
        wanted = round(tokens * self.chars_per_token)
        parts = [f"[{rng.getrandbits(40):010x}]"]
        size = len(parts[0])
        while size < wanted:
            parts.append(rng.choice(self.paragraphs))
            size += len(parts[-1]) + 1
        return "\n".join(parts)[:wanted] if wanted > len(parts[0]) else parts[0]

    def pad(self, rng: random.Random, text: str, tokens: int | None) -> str:
        """``text``, with prose in front of it when ``tokens`` asks for more than it has."""
        missing = 0 if tokens is None else tokens - round(len(text) / self.chars_per_token)
        return text if missing <= 0 else f"{self.text(rng, missing)}\n\n{text}"


def corpus(language: str, rng: random.Random) -> Corpus:
    """The texts of ``language``; ``mixed`` draws one of the two."""
    if language not in LANGUAGES:
        raise LoadtestError(f"language: no prompts in {language!r}: use one of {', '.join(LANGUAGES)}")
    return _load(rng.choice(("en", "zh")) if language == "mixed" else language)


def tokens_of(text: str) -> int:
    """About how many tokens ``text`` has, by its Chinese and its other characters."""
    chinese = sum(character >= "\u2e80" for character in text)
    return round(chinese / _load("zh").chars_per_token + (len(text) - chinese) / _load("en").chars_per_token)


@cache
def _load(language: str) -> Corpus:
    data = json.loads((Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8"))
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Corpus(**lists)
