"""The shape that every shipped scenario has; each of the others is this class with its own figures and wording."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from loadtest.lengths import Length
from loadtest.prompts import Corpus, corpus
from loadtest.scenarios.base import Conversation, ScenarioSettings, Turn

# (texts, random source, wanted prompt tokens or None, turn number) -> what the user says
Wording = Callable[[Corpus, random.Random, int | None, int], str]
FIGURES = ("output_tokens", "input_tokens", "turns", "think_s", "cancel_share", "prefix_tokens", "prefixes")


@dataclass(frozen=True)
class Drawn:
    """A scenario whose conversations are drawn independently of each other, each from its own number."""

    name: str
    settings: ScenarioSettings
    wording: Wording
    output_tokens: Length
    input_tokens: Length | None = None
    turns: int = 1
    think_s: float = 0.0
    cancel_share: float = 0.0
    prefix_tokens: int = 0  # of the system prompt; 0: the shipped one, which is short and the same for all
    prefixes: int = 1  # how many different ones there are
    arrivals: str = ""
    period_s: float = 0.0
    times: tuple[float, ...] = field(default=())

    def adjusted(self) -> Drawn:
        """The same with the figures of ``settings`` in place of its own."""
        given = ((name, getattr(self.settings, name)) for name in FIGURES)
        return replace(self, **{name: value for name, value in given if value is not None})

    def conversation(self, number: int) -> Conversation:
        rng = random.Random(f"{self.settings.seed}:{self.name}:{number}")
        texts = corpus(self.settings.language, rng)
        turns = tuple(self._turn(texts, rng, k) for k in range(self.turns))
        system = self._prefix(rng.randrange(self.prefixes)) if self.prefix_tokens else texts.system
        return Conversation(number, turns, system, rng.getrandbits(31), self.name)

    def _prefix(self, number: int) -> str:
        return prefix(self.settings.seed, self.settings.language, number, self.prefix_tokens)

    def _turn(self, texts: Corpus, rng: random.Random, k: int) -> Turn:
        length = self.input_tokens.sample(rng) if self.input_tokens else None
        user = self.wording(texts, rng, length, k)
        output = self.output_tokens.sample(rng)
        leaves = rng.random() < self.cancel_share
        leave_after = rng.randint(1, max(1, output - 1)) if leaves else None
        return Turn(user, output, rng.choice(texts.answers), leave_after)

    def think(self, rng: random.Random) -> float:
        return rng.expovariate(1 / self.think_s) if self.think_s else 0.0


@lru_cache(maxsize=64)
def prefix(seed: int, language: str, number: int, tokens: int) -> str:
    """The same text for the same number, for whichever conversation asks: a prefix cache can keep it."""
    rng = random.Random(f"{seed}:prefix:{number}")
    return corpus(language, rng).text(rng, tokens)


def question(texts: Corpus, rng: random.Random, tokens: int | None, turn: int) -> str:
    """A question, or in later turns a follow-up; padded with prose when a longer prompt is wanted."""
    return texts.pad(rng, rng.choice(texts.followups if turn else texts.questions), tokens)
