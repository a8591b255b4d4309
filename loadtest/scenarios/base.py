"""A scenario is a numbered, endless list of conversations: the same for one seed on any number of workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loadtest.lengths import Length

Message = dict[str, str]  # {"role": "user", "content": "…"}, as in OpenAI's chat API


@dataclass(frozen=True, slots=True)
class Request:
    """One stream to open. ``max_tokens`` is the wanted length; after ``leave_after`` tokens the user leaves."""

    messages: tuple[Message, ...]
    max_tokens: int
    seed: int
    conversation: int = 0
    turn: int = 0
    leave_after: int | None = None
    scenario: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says. ``canned`` replaces the server's answer in an open loop, which must not wait for it."""

    user: str
    max_tokens: int
    canned: str = ""
    leave_after: int | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    number: int
    turns: tuple[Turn, ...]
    system: str = ""
    seed: int = 0
    scenario: str = ""

    def request(self, turn: int, answers: Sequence[str] | None = None) -> Request:
        """Turn number ``turn`` with its history: the given ``answers``, or the canned ones."""
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for k in range(turn):
            answer = answers[k] if answers is not None else self.turns[k].canned
            messages += [{"role": "user", "content": self.turns[k].user}, {"role": "assistant", "content": answer}]
        now = self.turns[turn]
        messages.append({"role": "user", "content": now.user})
        return Request(
            tuple(messages), now.max_tokens, self.seed + turn, self.number, turn, now.leave_after, self.scenario
        )


@dataclass(frozen=True, slots=True)
class Slice(Conversation):
    """One turn of a longer conversation, with the canned history that leads to it."""

    whole: Conversation | None = None
    at: int = 0

    @classmethod
    def of(cls, whole: Conversation, turn: int) -> Slice:
        return cls(whole.number, (whole.turns[turn],), whole.system, whole.seed, whole.scenario, whole, turn)

    def request(self, turn: int, answers: Sequence[str] | None = None) -> Request:
        assert self.whole is not None
        return self.whole.request(self.at)


@dataclass(frozen=True, slots=True)
class ScenarioSettings:
    """What a user may change about any scenario; ``None`` leaves the scenario's own choice."""

    seed: int = 1
    language: str = "mixed"
    input_tokens: Length | None = None
    output_tokens: Length | None = None
    turns: int | None = None
    cancel_share: float | None = None
    think_s: float | None = None
    prefix_tokens: int | None = None
    prefixes: int | None = None
    extra: dict[str, str] = field(default_factory=dict)


class Scenario(Protocol):
    """``turns`` is the same for every conversation, so that request i is turn i % turns of conversation i // turns.

    ``arrivals`` is what the scenario uses when the command line names none ("" leaves it to the generator), ``times``
    are its own timestamps (trace only), ``period_s`` makes closed-loop users start together every so many seconds."""

    @property
    def name(self) -> str: ...
    @property
    def turns(self) -> int: ...
    @property
    def arrivals(self) -> str: ...
    @property
    def period_s(self) -> float: ...
    @property
    def times(self) -> tuple[float, ...]: ...

    def conversation(self, number: int) -> Conversation: ...

    def think(self, rng: random.Random) -> float:
        """Seconds a closed-loop user waits between two turns."""


def request_number(scenario: Scenario, number: int) -> Request:
    """Request ``number`` of an open loop."""
    conversation, turn = divmod(number, scenario.turns)
    return scenario.conversation(conversation).request(turn)
