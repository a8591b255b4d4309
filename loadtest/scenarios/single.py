"""The shape that every shipped scenario has; each of the others is this class with its own figures and wording."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.lengths import Length
from loadtest.prompts import Corpus, corpus
from loadtest.scenarios.base import Conversation, ScenarioSettings, Turn

# (texts, random source, wanted prompt tokens or None, turn number) -> what the user says
Wording = Callable[[Corpus, random.Random, int | None, int], str]


@dataclass(frozen=True)
class Drawn:
    """A scenario whose conversations are drawn independently of each other, each from its own number."""

    name: str
    settings: ScenarioSettings
    wording: Wording
    input_tokens: Length | None
    output_tokens: Length
    turns: int = 1
    think_s: float = 0.0
    cancel_share: float = 0.0
    shared_system: bool = True
    arrivals: str = ""
    period_s: float = 0.0
    times: tuple[float, ...] = field(default=())

    def conversation(self, number: int) -> Conversation:
        rng = random.Random(f"{self.settings.seed}:{self.name}:{number}")
        texts = corpus(self.settings.language, rng)
        turns = tuple(self._turn(texts, rng, k) for k in range(self.turns))
        system = texts.system if self.shared_system else ""
        return Conversation(number, turns, system, rng.getrandbits(31), self.name)

    def _turn(self, texts: Corpus, rng: random.Random, k: int) -> Turn:
        length = self.input_tokens.sample(rng) if self.input_tokens else None
        user = self.wording(texts, rng, length, k)
        output = self.output_tokens.sample(rng)
        leaves = rng.random() < self.cancel_share
        leave_after = rng.randint(1, max(1, output - 1)) if leaves else None
        return Turn(user, output, rng.choice(texts.answers), leave_after)

    def think(self, rng: random.Random) -> float:
        return rng.expovariate(1 / self.think_s) if self.think_s else 0.0


def drawn(
    name: str,
    settings: ScenarioSettings,
    wording: Wording,
    output: Length,
    *,
    input_tokens: Length | None = None,
    turns: int = 1,
    think_s: float = 0.0,
    cancel_share: float = 0.0,
    arrivals: str = "",
    period_s: float = 0.0,
) -> Drawn:
    """A scenario with its own figures, each of which ``settings`` may replace."""

    def pick(theirs: float | None, ours: float) -> float:
        return ours if theirs is None else theirs

    return Drawn(
        name, settings, wording, settings.input_tokens or input_tokens, settings.output_tokens or output,
        turns=settings.turns or turns, think_s=pick(settings.think_s, think_s),
        cancel_share=pick(settings.cancel_share, cancel_share), arrivals=arrivals, period_s=period_s,
    )  # fmt: skip


def question(texts: Corpus, rng: random.Random, tokens: int | None, turn: int) -> str:
    """A question, or in later turns a follow-up; padded with prose when a longer prompt is wanted."""
    return texts.pad(rng, rng.choice(texts.followups if turn else texts.questions), tokens)
