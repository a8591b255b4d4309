"""GPT-2's byte alphabet: how ``tokenizer.json`` of a byte-level BPE spells bytes as printable characters.

A byte that prints stands for itself; the others get the code points from 256 up. Source: ``bytes_to_unicode`` in
https://github.com/openai/gpt-2/blob/27a08882c7706499a2c044840fa3d464ac4f5f0b/src/encoder.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_next_free = itertools.count(256)

CHARACTERS = tuple(chr(byte if byte in _PRINTABLE else next(_next_free)) for byte in range(256))  # by byte
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}  # by character


def token_bytes(tokenizer: Mapping[str, Any]) -> list[bytes]:
    """Every token's bytes, by id, of what ``tokenizer.json`` holds. Special tokens and unused ids are empty."""
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    added: list[dict[str, object]] = tokenizer.get("added_tokens", [])
    size = 1 + max([*vocab.values(), *(int(str(token["id"])) for token in added)])
    table = [b""] * size
    for text, index in vocab.items():
        table[index] = bytes(BYTES[char] for char in text)
    for token in added:
        table[int(str(token["id"]))] = b"" if token["special"] else str(token["content"]).encode()
    return table
