"""Tokenizer files of a few words, for checkpoints that nobody talks to."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models

WORDS = ("<s>", "</s>", "hello", "<|end|>")


def write(directory: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="<s>")).save(str(directory / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
