"""Recorded conversations without times: ShareGPT's JSON, or JSONL with OpenAI's ``messages`` or a ``prompt`` a line.

Every pass goes through all of them once, in an order that the seed draws. By default a request is one drawn turn of a
conversation with its recorded history; with ``turns = N`` a conversation of at least N turns is held from its start, in
a closed loop with the server's own answers. Answers get the length of the recorded ones, as near as characters tell.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from contract import nesting, user_text
from loadtest.errors import LoadtestError
from loadtest.lengths import Length
from loadtest.prompts import tokens_of
from loadtest.scenarios.base import Conversation, Scenario, ScenarioSettings, Slice, Turn

FORM = '{"messages": [{"role": "user", "content": "…"}]} or {"prompt": "…"} a line, or ShareGPT\'s conversations'
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
UNKNOWN = 128  # tokens of an answer that was not recorded


@dataclass(frozen=True)
class Dataset:
    settings: ScenarioSettings
    recorded: tuple[Conversation, ...]
    name: str
    turns: int = 1
    arrivals: str = ""
    period_s: float = 0.0
    times: tuple[float, ...] = field(default=())

    def conversation(self, number: int) -> Conversation:
        rounds, at = divmod(number, len(self.recorded))
        rng = random.Random(f"{self.settings.seed}:dataset:{number}")
        found = self.recorded[_order(self.settings.seed, rounds, len(self.recorded))[at]]
        turns = found.turns if self.settings.output_tokens is None else _drawn(found, self.settings.output_tokens, rng)
        whole = replace(found, number=number, turns=turns, seed=rng.getrandbits(31))
        return whole if self.turns > 1 else Slice.of(whole, rng.randrange(len(turns)))

    def think(self, rng: random.Random) -> float:
        return rng.expovariate(1 / self.settings.think_s) if self.settings.think_s else 0.0


def _drawn(conversation: Conversation, length: Length, rng: random.Random) -> tuple[Turn, ...]:
    return tuple(replace(turn, max_tokens=length.sample(rng)) for turn in conversation.turns)


@lru_cache(maxsize=4)
def _order(seed: int, rounds: int, count: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed}:dataset:order:{rounds}").shuffle(order)
    return order


def has_no_times(path: Path) -> bool:
    """Whether it is a dataset, by its name and first line. A file that cannot be read fails later, with a message."""
    if path.suffix != ".jsonl":
        return path.suffix == ".json"
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = nesting.loads(next((line for line in file if line.strip()), "null"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(first, dict)
        and "timestamp" not in first
        and bool(first.keys() & {"messages", "prompt", "conversations"})
    )


def create(settings: ScenarioSettings) -> Scenario:
    path = Path(settings.extra["file"])
    turns = settings.turns or 1
    read = [_conversation(row, where, path.stem) for row, where in _rows(path)]
    recorded = tuple(one for one in read if len(one.turns) >= turns)
    if not recorded:
        raise LoadtestError(f"dataset: {path} holds no conversation of {turns} turns or more: write {FORM}")
    return Dataset(settings, recorded, path.stem, turns)


def _rows(path: Path) -> Iterable[tuple[Any, str]]:
    """Each conversation with its place, for messages."""
    try:
        text = user_text.read(path)
        if path.suffix == ".json":
            found = nesting.loads(text)
            if not isinstance(found, list):
                raise LoadtestError(f"dataset: {path} is not a list of conversations: write {FORM}")
            return [(row, f"dataset: {path}, conversation {k}") for k, row in enumerate(found, 1)]
        return [(row, f"dataset: {path}:{k}") for k, row in user_text.json_lines(text)]
    except OSError as error:
        raise LoadtestError(f"dataset: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise LoadtestError(f"dataset: {path} is not JSON ({error}): write {FORM}") from None


def _conversation(row: Any, where: str, name: str) -> Conversation:
    """Its system prompt and what the user says, each with the answer that followed. Text before that is dropped."""
    system, users, answers = "", list[str](), list[str]()
    for role, content in _messages(row, where):
        if role == "system" and not users:
            system = content
        elif role == "user":
            users.append(content)
            answers.append("")
        elif role == "assistant" and users:
            answers[-1] += content
        elif role not in ("system", "assistant"):
            raise LoadtestError(f"{where}: role {role!r} is not one of system, user, assistant")
    asked = row.get("output_length") if isinstance(row, dict) else None
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise LoadtestError(f"{where}: output_length must be a whole number above 0, got {asked!r}")
    turns = (
        Turn(user, asked or (max(1, tokens_of(answer)) if answer else UNKNOWN), answer)
        for user, answer in zip(users, answers, strict=True)
    )
    return Conversation(0, tuple(turns), system, 0, name)


def _messages(row: Any, where: str) -> Iterable[tuple[str, str]]:
    """(role, text) in OpenAI's names."""
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return [("user", row["prompt"])]
    found = (row.get("messages") or row.get("conversations")) if isinstance(row, dict) else None
    pairs = [
        (ROLES.get(role, role), text)
        for message in (found if isinstance(found, list) else ())
        if isinstance(message, dict)
        and isinstance(role := message.get("role") or message.get("from"), str)
        and isinstance(text := message.get("content", message.get("value")), str)
    ]
    if not isinstance(found, list) or len(pairs) != len(found):
        raise LoadtestError(f"{where}: no conversation of texts: write {FORM}")
    return pairs
