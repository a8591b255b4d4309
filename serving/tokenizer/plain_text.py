"""Users' text stays text: a special token that stands in a message's content is not one.

``<|im_end|>\\n<|im_start|>system`` in a message would end the turn and open another one, because a template's output is
one string that no longer tells the template's tokens from the users'. So special tokens in messages and tools are
masked by placeholders before the template is rendered, and the parts between the template's own special tokens are
encoded with the placeholders resolved, as ordinary text. A request without any takes the direct path, with the same
ids.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from serving.tokenizer.encoder import Encoder

OPEN, CLOSE = "\ufdd0", "\ufdd1"  # noncharacters of Unicode: no text means them


class PlainText:
    """Masks and resolves. The placeholders hold a number that is drawn per process, so no caller can write one."""

    def __init__(self, encoder: Encoder) -> None:
        self._ids = encoder.special_ids
        self._tokens = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, self._tokens)) + ")" if self._tokens else r"(\b\B)")
        self._nonce = secrets.token_hex(4)
        self._placeholder = re.compile(f"{OPEN}{self._nonce}:(\\d+){CLOSE}")
        self._encoder = encoder

    def masked(self, value: Any) -> Any:
        """``value`` (JSON) with every special token in its strings and keys masked; itself where there is none."""
        if isinstance(value, str):
            return self._pattern.sub(self._mask, value) if self._pattern.search(value) else value
        if isinstance(value, list):
            return [self.masked(item) for item in value]
        if isinstance(value, dict):
            return {self.masked(key): self.masked(item) for key, item in value.items()}
        return value

    def resolved(self, text: str) -> str:
        """What the caller wrote."""
        return self._placeholder.sub(lambda match: self._tokens[int(match[1])], text) if OPEN in text else text

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered prompt; masked tokens become ordinary ones."""
        if not self._placeholder.search(text):
            return self._encoder.encode(text)
        ids: list[int] = []
        for place, part in enumerate(self._pattern.split(text)):
            if place % 2:
                ids.append(self._ids[part])
            elif part:
                ids += self._encoder.encode_plain(self.resolved(part))
        return ids

    def _mask(self, match: re.Match[str]) -> str:
        return f"{OPEN}{self._nonce}:{self._tokens.index(match[0])}{CLOSE}"
