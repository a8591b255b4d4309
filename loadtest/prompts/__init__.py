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

NUMBER_TOKENS = 9  # of "[4f0c2d9e1a]": there are few letters to a token
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
        wanted = round((tokens - NUMBER_TOKENS) * self.chars_per_token)
        number, prose = f"[{rng.getrandbits(40):010x}]", ""
        while len(prose) < wanted:
            prose += f"\n{rng.choice(self.paragraphs)}"
        return number + prose[: max(0, wanted)]

    def pad(self, rng: random.Random, text: str, tokens: int | None) -> str:
        """``text`` with prose in front of it, or cut, as ``tokens`` asks for more than it has or for less."""
        if tokens is None:
            return text
        missing = tokens - round(len(text) / self.chars_per_token)
        if missing > NUMBER_TOKENS:
            return f"{self.text(rng, missing)}\n\n{text}"
        return text[: max(1, round(tokens * self.chars_per_token))]


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
