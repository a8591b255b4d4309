"""Recorded conversations without times: ShareGPT's JSON, or JSONL with OpenAI's ``messages``, a ``prompt`` or ``turns``
a line. The names are those of ``vllm bench serve``, AIPerf, GuideLLM and MT-Bench.

Every pass goes through all of them once, in an order that the seed draws. By default a request is one drawn turn of a
conversation whose history is recorded; with ``turns = N`` a conversation of at least N turns is held from its start, in
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
PROMPTS = ("prompt", "text", "text_input")  # a text that is the whole request
CONVERSATIONS = ("messages", "conversations", "turns")  # of texts by role, or by the user alone
LENGTHS = ("output_length", "output_tokens", "output_tokens_count")  # of the answer
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
        recorded = next((k for k, turn in enumerate(turns[:-1]) if not turn.canned), len(turns) - 1)  # answers in a row
        return whole if self.turns > 1 else Slice.of(whole, rng.randrange(recorded + 1))

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
    return isinstance(first, dict) and not first.keys() & {"timestamp", "input_length"}


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
    system, users, answers = "", list[tuple[str, int | None]](), list[str]()
    for role, content, length in _messages(row, where):
        if role == "system" and not users:
            system = content
        elif role == "user":
            users.append((content, length))
            answers.append("")
        elif role == "assistant" and users:
            answers[-1] += content
        elif role not in ("system", "assistant"):
            raise LoadtestError(f"{where}: role {role!r} is not one of system, user, assistant")
    turns = (
        Turn(user, length or (max(1, tokens_of(answer)) if answer else UNKNOWN), answer)
        for (user, length), answer in zip(users, answers, strict=True)
    )
    return Conversation(0, tuple(turns), system, 0, name)


def prompt(row: dict[str, Any], where: str) -> str | None:
    text = next((row[name] for name in PROMPTS if isinstance(row.get(name), str)), None)
    return None if text is None else valid(text, where)


def valid(text: str, where: str) -> str:
    """``text``, unless JSON's escapes put half a surrogate pair into it: each request with it would be a failure."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise LoadtestError(f"{where}: {half} is half a surrogate pair, which cannot be sent: remove it") from None
    return text


def _messages(row: Any, where: str) -> Iterable[tuple[str, str, int | None]]:
    """(role, text, the answer's length if it is given) in OpenAI's names."""
    row = row if isinstance(row, dict) else {}
    asked = _length(row, where)
    if (text := prompt(row, where)) is not None:
        return [("user", text, asked)]
    found = next((row[name] for name in CONVERSATIONS if row.get(name) is not None), None)
    side = "user" if "turns" in row else None
    told = list[tuple[str, str, int | None]]()
    for one in found if isinstance(found, list) else [None]:
        message = {"text": one} if isinstance(one, str) else one if isinstance(one, dict) else {}
        role = message.get("role") or message.get("from") or side
        content = next((message[name] for name in ("content", "value", "text") if name in message), None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise LoadtestError(f"{where}: no conversation of texts: write {FORM}")
        told.append((ROLES.get(role, role), valid(content, where), _length(message, where) or asked))
    return told


def _length(row: dict[str, Any], where: str) -> int | None:
    name = next((name for name in LENGTHS if row.get(name) is not None), LENGTHS[0])
    asked = row.get(name)
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise LoadtestError(f"{where}: {name} must be a whole number above 0, got {asked!r}")
    return asked
