"""Calibration prompts written for this project: chat, summaries, extraction, code and arithmetic in eleven languages.

``compose`` combines the passages, questions and tasks of the two data files, always in the same order, so that builds
are reproducible. Most prompts are Chinese or English; every third carries an answer, because activations while writing
differ from those while reading. Texts are already in Qwen2.5's chat format (ChatML).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

SEED = 20251122
LONG_PASSAGES = (2, 4, 8)  # passages joined into one long document
HERE = Path(__file__).parent


class Prompt(NamedTuple):
    """``text`` is ChatML and ends where the assistant begins, or after its answer if there is one."""

    kind: str  # question | passage | long | code | math
    language: str
    text: str


@cache
def passages() -> dict[str, list[str]]:
    loaded: dict[str, list[str]] = json.loads((HERE / "passages.json").read_text(encoding="utf-8"))
    return loaded


@cache
def material() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HERE / "material.json").read_text(encoding="utf-8"))
    return loaded


def chatml(user: str, system: str, answer: str = "") -> str:
    """One turn in Qwen2.5's chat form."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return f"{head}{answer}<|im_end|>\n" if answer else head


def compose(count: int = 512) -> list[Prompt]:
    """``count`` different prompts, with the kinds mixed evenly, so that any prefix is a fair sample."""
    chooser = random.Random(SEED)
    streams = [list(_unique(kind(chooser))) for kind in (_questions, _passages, _long, _code, _math)]
    for stream in streams:
        chooser.shuffle(stream)
    mixed = [item for group in itertools.zip_longest(*streams) for item in group if item is not None]
    if count > len(mixed):
        raise ValueError(f"{count} prompts asked for, {len(mixed)} can be composed")
    return mixed[:count]


def _unique(prompts: Iterator[Prompt]) -> Iterator[Prompt]:
    seen = set()
    for prompt in prompts:
        if prompt.text not in seen:
            seen.add(prompt.text)
            yield prompt


def _turn(kind: str, language: str, user: str, chooser: random.Random) -> Prompt:
    systems: list[str] = material()["systems"]
    answers: list[str] = material()["answers"].get(language, material()["answers"]["en"])
    system = systems[0] if chooser.random() < 0.5 else chooser.choice(systems)
    answer = chooser.choice(answers) if chooser.random() < 1 / 3 else ""
    return Prompt(kind, language, chatml(user, system, answer))


def _questions(chooser: random.Random) -> Iterator[Prompt]:
    for language, questions in material()["questions"].items():
        for question in questions:
            for _ in range(3):
                yield _turn("question", language, question, chooser)


def _passages(chooser: random.Random) -> Iterator[Prompt]:
    for language, texts in passages().items():
        tasks = material()["passage_tasks"].get(language, material()["passage_tasks"]["other"])
        for text, task in itertools.product(texts, tasks):
            yield _turn("passage", language, task.replace("{passage}", text), chooser)


def _long(chooser: random.Random) -> Iterator[Prompt]:
    for language in ("en", "zh"):
        for size, task in itertools.product(LONG_PASSAGES, material()["passage_tasks"][language]):
            for _ in range(5):
                yield _turn("long", language, task.replace("{passage}", document(language, size, chooser)), chooser)


def document(language: str, size: int, chooser: random.Random) -> str:
    """``size`` different passages of a language as one numbered document (each about 200 tokens)."""
    chosen = chooser.sample(passages()[language], size)
    return "\n\n".join(f"{number}. {text}" for number, text in enumerate(chosen, 1))


def _code(chooser: random.Random) -> Iterator[Prompt]:
    for task, snippet in material()["code"]:
        for suffix in (
            "",
            " Keep the answer short.",
            " 请用中文回答。",
            " Then write a commit message for the change.",
        ):
            yield _turn("code", "code", f"{task}{suffix}\n\n```\n{snippet}\n```", chooser)


def _math(chooser: random.Random) -> Iterator[Prompt]:
    for template in material()["math"]:
        for _ in range(16):
            low, factor, high = chooser.randint(3, 60), chooser.randint(2, 9), chooser.randint(100, 900)
            text = template.replace("{a}", str(low)).replace("{b}", str(factor)).replace("{c}", str(high))
            yield _turn("math", "math", text, chooser)
