"""trace: replay of a JSONL or CSV file, one request a line, at the recorded times.

A line of JSONL has ``timestamp`` (milliseconds from the start, as Mooncake's public traces have it), ``output_length``
(tokens) and one of ``messages`` (OpenAI form), ``prompt`` (text) or ``input_length`` (tokens; the text is then drawn
from the shipped prose). ``hash_ids`` name blocks of 512 tokens: equal ids give equal text, so that a prefix cache sees
what it would have seen. A CSV file has the columns of BurstGPT (seconds) or of Azure's LLM traces (dates).
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from contract import nesting
from loadtest.errors import LoadtestError
from loadtest.prompts import corpus
from loadtest.scenarios import dataset
from loadtest.scenarios.base import Conversation, Message, Request, Scenario, ScenarioSettings

BLOCK_TOKENS = 512
MOST_TOKENS = 1_000_000  # of a prompt: their text is made while the run waits
EXAMPLE = Path(__file__).parent / "example_trace.jsonl"
FORM = '{"timestamp": 1200, "input_length": 300, "output_length": 80}'


# time, prompt tokens, answer tokens: https://github.com/HPMLL/BurstGPT, https://github.com/Azure/AzurePublicDataset
COLUMNS = (("timestamp", "request tokens", "response tokens"), ("timestamp", "contexttokens", "generatedtokens"))


@dataclass(frozen=True, slots=True)
class Line:
    """``messages``, or ``tokens`` of prose that is made when it is sent: a long trace's texts would fill the memory."""

    number: int
    time: float
    output: int
    messages: tuple[Message, ...] = ()
    tokens: int = 0
    blocks: tuple[Any, ...] = ()


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
        return _Recorded(number, (), "", self.settings.seed + number, self.name, line, self.settings)

    def think(self, rng: random.Random) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class _Recorded(Conversation):
    line: Line | None = None
    settings: ScenarioSettings | None = None

    def request(self, turn: int, answers: Sequence[str] | None = None) -> Request:
        assert self.line is not None and self.settings is not None
        messages = self.line.messages or ({"role": "user", "content": _prose(self.line, self.settings)},)
        return Request(messages, self.line.output, self.seed, self.number, 0, None, self.scenario)


def create(settings: ScenarioSettings) -> Scenario:
    path = Path(settings.extra.get("file", EXAMPLE))
    read = _from_csv if path.suffix == ".csv" else _from_jsonl
    try:
        lines = tuple(sorted(read(path), key=lambda line: line.time))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LoadtestError(f"trace: cannot read {path} ({error}): name a JSONL file with lines like {FORM}") from None
    if not lines:
        raise LoadtestError(f"trace: {path} holds no request: write lines like {FORM}")
    first = lines[0].time
    return Trace(settings, lines, tuple(line.time - first for line in lines))


def _from_jsonl(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield _line(text, f"trace: {path}:{number}", number)


def _from_csv(path: Path) -> Iterator[Line]:
    """Requests without an answer are failures of the recorded service, and left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        names = {name.strip().lower(): name for name in rows.fieldnames or ()}
        columns = next(([names[c] for c in known] for known in COLUMNS if set(known) <= set(names)), None)
        if columns is None:
            wanted = " or ".join(", ".join(known) for known in COLUMNS)
            raise LoadtestError(f"trace: {path} lacks the columns of a trace: {wanted}")
        for number, row in enumerate(rows, 1):
            try:
                when, tokens, output = _seconds(row[columns[0]]), int(row[columns[1]]), int(row[columns[2]])
                if not math.isfinite(when) or tokens > MOST_TOKENS:
                    raise ValueError
            except (ValueError, TypeError):
                raise LoadtestError(
                    f"trace: {path}:{rows.line_num}: time and tokens must be numbers, tokens at most {MOST_TOKENS}"
                ) from None
            if output > 0:
                yield Line(number, when, output, tokens=max(1, tokens))


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        when = datetime.fromisoformat(text.strip()[:26])  # Azure writes tenths of microseconds
        return when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp()  # no summer time in a trace


def _line(text: str, where: str, number: int) -> Line:
    try:
        data = nesting.loads(text)
    except ValueError:
        raise LoadtestError(f"{where}: not JSON: write lines like {FORM}") from None
    if not isinstance(data, dict):
        raise LoadtestError(f"{where}: not a JSON object: write lines like {FORM}")
    time = _number(data, "timestamp", where) / 1000
    output = max(1, int(_number(data, "output_length", where)))
    messages = data.get("messages")
    if (
        isinstance(messages, list)
        and messages
        and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages)
    ):
        dataset.valid(json.dumps(messages, ensure_ascii=False), where)
        return Line(number, time, output, tuple(messages))
    if (prompt := dataset.prompt(data, where)) is not None:
        return Line(number, time, output, ({"role": "user", "content": prompt},))
    if "input_length" not in data:
        raise LoadtestError(f"{where}: needs messages, prompt or input_length: write lines like {FORM}")
    tokens, blocks = int(_number(data, "input_length", where, MOST_TOKENS)), data.get("hash_ids") or []
    if not isinstance(blocks, list):
        raise LoadtestError(f"{where}: hash_ids must be a list, got {blocks!r}: write lines like {FORM}")
    return Line(number, time, output, tokens=tokens, blocks=tuple(blocks))


def _number(data: dict[str, Any], key: str, where: str, most: float = 1e12) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise LoadtestError(
            f"{where}: {key} must be a number from 0 to {most:.0f}, got {value!r}: write lines like {FORM}"
        )
    return float(value)


def _prose(line: Line, settings: ScenarioSettings) -> str:
    """Whole blocks by their ids, then the rest, which is this line's own."""
    names = [f"block:{block}" for block in line.blocks[: line.tokens // BLOCK_TOKENS]]
    sizes = [BLOCK_TOKENS] * len(names) + [line.tokens - BLOCK_TOKENS * len(names)]
    parts = []
    for name, size in zip([*names, f"line:{line.number}"], sizes, strict=True):
        rng = random.Random(f"{settings.seed}:{name}")
        parts += [corpus(settings.language, rng).text(rng, size)] if size else []
    return "\n".join(parts) or "?"
