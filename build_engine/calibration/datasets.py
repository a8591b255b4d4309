"""Write prompts in the layouts that the quantization tools read, and read a user's own prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from build_engine.calibration.prompts import chatml, compose, material
from contract import nesting, user_text
from contract.errors import BuildError

SUFFIXES = (".jsonl", ".json", ".txt")
CONVERT_ROWS = 512  # convert_checkpoint.py reads rows 0 to 511 of any data set: fewer raise an IndexError
# convert_checkpoint.py loads a path with "ccdv/cnn_dailymail" in it by the configuration name "3.0.0"; a local data set
# has configurations only if its card declares them.
CARD = """---
configs:
- config_name: "3.0.0"
  data_files:
  - split: train
    path: train.jsonl
---
Calibration prompts of this project; laid out like cnn_dailymail because convert_checkpoint.py knows data sets by path.
"""


def write(directory: Path, texts: Sequence[str]) -> None:
    """``text/train.jsonl`` with the column ``text`` and ``ccdv/cnn_dailymail/train.jsonl`` with ``article``, the latter
    repeated to ``CONVERT_ROWS`` rows where there are fewer."""
    repeated = [*texts, *(texts[row % len(texts)] for row in range(len(texts), CONVERT_ROWS))]
    _lines(directory / "text" / "train.jsonl", "text", texts)
    _lines(directory / "ccdv" / "cnn_dailymail" / "train.jsonl", "article", repeated)
    (directory / "ccdv" / "cnn_dailymail" / "README.md").write_text(CARD, encoding="utf-8")


def _lines(path: Path, column: str, texts: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({column: text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")


def shipped(count: int = 512) -> list[str]:
    return [prompt.text for prompt in compose(count)]


def read(path: Path) -> list[str]:
    """A user's prompts: ``.jsonl``, ``.json`` (a list) or ``.txt`` (paragraphs), or a directory of such files.

    A JSON entry is a string, ``{"text": …}`` or ``{"messages": [{"role", "content"}, …]}``. Text that is not in chat
    format becomes a user's turn, because the model will see chats when it serves. Raises ``BuildError``.
    """
    files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
    texts = [text for file in files for text in _read_file(file)]
    if not texts:
        raise BuildError(f"{path} holds no prompt: expected {', '.join(SUFFIXES)} with `text` or `messages`")
    return texts


def _read_file(path: Path) -> Iterator[str]:
    if path.suffix not in SUFFIXES:
        raise BuildError(f"{path}: unknown kind of file, use {', '.join(SUFFIXES)}")
    try:
        content = user_text.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path} cannot be read as UTF-8 text ({error})") from error
    if path.suffix == ".txt":
        yield from (_templated(part.strip()) for part in content.split("\n\n") if part.strip())
        return
    for number, entry in _entries(path, content):
        text = _text_of(entry)
        if text is None:
            raise BuildError(f"{path}: entry {number} has neither `text` nor `messages`")
        yield text


def _entries(path: Path, content: str) -> Iterator[tuple[int, Any]]:
    try:
        if path.suffix == ".json":
            loaded = nesting.loads(content)
            yield from enumerate(loaded if isinstance(loaded, list) else [loaded], 1)
        else:
            yield from user_text.json_lines(content)
    except ValueError as error:
        raise BuildError(f"{path} is not valid JSON ({error})") from error


def _text_of(entry: Any) -> str | None:
    if isinstance(entry, str):
        return _templated(entry)
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("text"), str):
        return _templated(entry["text"])
    messages = entry.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        return None
    turns = "".join(f"<|im_start|>{m['role']}\n{m.get('content', '')}<|im_end|>\n" for m in messages)
    return turns if messages and messages[-1]["role"] == "assistant" else turns + "<|im_start|>assistant\n"


def _templated(text: str) -> str:
    return text if "<|im_start|>" in text else chatml(text, material()["systems"][0])
