"""GPT-2's byte alphabet: how ``tokenizer.json`` of a byte-level BPE spells bytes as printable characters.

A byte that prints stands for itself; the others get the code points from 256 up. Source: ``bytes_to_unicode`` in
https://github.com/openai/gpt-2/blob/master/src/encoder.py.
"""

from __future__ import annotations

import itertools

_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_next_free = itertools.count(256)

CHARACTERS = tuple(chr(byte if byte in _PRINTABLE else next(_next_free)) for byte in range(256))  # by byte
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}  # by character
