"""trace: replay of a JSONL file, one request a line, at the recorded times.

A line has ``timestamp`` (milliseconds from the start, as Mooncake's public traces have it), ``output_length`` (tokens)
and one of ``messages`` (OpenAI form), ``prompt`` (text) or ``input_length`` (tokens; the text is then drawn from the
shipped prose). ``hash_ids`` name blocks of 512 tokens: equal ids give equal text, so that a prefix cache sees what it
would have seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import LoadtestError
from loadtest.prompts import corpus
from loadtest.scenarios.base import Conversation, Message, Request, Scenario, ScenarioSettings

BLOCK_TOKENS = 512
EXAMPLE = Path(__file__).parent / "example_trace.jsonl"
FORM = '{"timestamp": 1200, "input_length": 300, "output_length": 80}'


@dataclass(frozen=True, slots=True)
class Line:
    time: float
    messages: tuple[Message, ...]
    output: int
    leave_after: int | None = None


@dataclass(frozen=True)
class Trace:
    settings: ScenarioSettings
    lines: tuple[Line, ...]
    times: tuple[float, ...]
    name: str = "trace"
    turns: int = 1
    arrivals: str = "trace"
    period_s: float = 0.0

    def conversation(self, number: int) -> Conversation:
        line = self.lines[number % len(self.lines)]
        return _Recorded(number, (), "", self.settings.seed + number, self.name, line)

    def think(self, rng: random.Random) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class _Recorded(Conversation):
    line: Line | None = None

    def request(self, turn: int, answers: Sequence[str] | None = None) -> Request:
        assert self.line is not None
        return Request(
            self.line.messages, self.line.output, self.seed, self.number, 0, self.line.leave_after, self.scenario
        )


def create(settings: ScenarioSettings) -> Scenario:
    path = Path(settings.extra.get("file", EXAMPLE))
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadtestError(f"trace: cannot read {path} ({error}): name a JSONL file with lines like {FORM}") from None
    lines = tuple(
        sorted(
            (_line(text, path, n, settings) for n, text in enumerate(texts, 1) if text.strip()), key=lambda x: x.time
        )
    )
    if not lines:
        raise LoadtestError(f"trace: {path} holds no request: write lines like {FORM}")
    first = lines[0].time
    return Trace(settings, lines, tuple(line.time - first for line in lines))


def _line(text: str, path: Path, number: int, settings: ScenarioSettings) -> Line:
    where = f"trace: {path}:{number}"
    try:
        data = json.loads(text)
    except ValueError:
        raise LoadtestError(f"{where}: not JSON: write lines like {FORM}") from None
    if not isinstance(data, dict):
        raise LoadtestError(f"{where}: not a JSON object: write lines like {FORM}")
    time = _number(data, "timestamp", where) / 1000
    output = int(_number(data, "output_length", where))
    return Line(time, _messages(data, where, number, settings), max(1, output))


def _number(data: dict[str, Any], key: str, where: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise LoadtestError(f"{where}: {key} must be a number >= 0, got {value!r}: write lines like {FORM}")
    return float(value)


def _messages(data: dict[str, Any], where: str, number: int, settings: ScenarioSettings) -> tuple[Message, ...]:
    messages = data.get("messages")
    if isinstance(messages, list) and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages):
        return tuple(messages)
    if isinstance(data.get("prompt"), str):
        return ({"role": "user", "content": data["prompt"]},)
    if "input_length" not in data:
        raise LoadtestError(f"{where}: needs messages, prompt or input_length: write lines like {FORM}")
    tokens = int(_number(data, "input_length", where))
    return ({"role": "user", "content": _prose(data.get("hash_ids") or [], tokens, number, settings)},)


def _prose(blocks: list[Any], tokens: int, number: int, settings: ScenarioSettings) -> str:
    """Whole blocks by their ids, then the rest, which is this line's own."""
    names = [f"block:{block}" for block in blocks[: tokens // BLOCK_TOKENS]]
    sizes = [BLOCK_TOKENS] * len(names) + [tokens - BLOCK_TOKENS * len(names)]
    parts = []
    for name, size in zip([*names, f"line:{number}"], sizes, strict=True):
        rng = random.Random(f"{settings.seed}:{name}")
        parts += [corpus(settings.language, rng).text(rng, size)] if size else []
    return "\n".join(parts) or "?"
