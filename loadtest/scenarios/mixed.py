"""mixed: six chats, two summaries and two coding tasks in ten, as a shared service sees them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from loadtest.scenarios import chat, code, summarize
from loadtest.scenarios.base import Conversation, Scenario, ScenarioSettings, Slice

WEIGHTS = {"chat": 6, "summarize": 2, "code": 2}


@dataclass(frozen=True)
class Mixed:
    settings: ScenarioSettings
    parts: dict[str, Scenario]
    name: str = "mixed"
    turns: int = 1  # one turn each, so that requests keep the weights; a chat is met at a drawn turn of its own
    arrivals: str = ""
    period_s: float = 0.0
    times: tuple[float, ...] = field(default=())

    def conversation(self, number: int) -> Conversation:
        rng = random.Random(f"{self.settings.seed}:mixed:{number}")
        part = self.parts[rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]]
        whole = part.conversation(number)
        turn = rng.randrange(part.turns)
        return Slice.of(whole, turn)

    def think(self, rng: random.Random) -> float:
        return self.parts["chat"].think(rng)


def create(settings: ScenarioSettings) -> Scenario:
    return Mixed(settings, {m.__name__.rsplit(".", 1)[1]: m.create(settings) for m in (chat, summarize, code)})
