"""Token ids to text, incrementally and byte-exact.

A token of byte-level BPE is a string of bytes, possibly part of a character. ``TokenBytes`` maps ids to bytes once per
process; ``TextStream`` runs them through an incremental UTF-8 decoder, so the concatenation of what it yields equals
``Tokenizer.decode`` of all ids for every way of cutting the ids into chunks (both replace a maximal invalid
subsequence by one U+FFFD). Only half a character at the end of an answer that was cut off is left out.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from contract import byte_alphabet
from serving.detokenizer.stops import StopMatcher


class TokenBytes:
    """Bytes of every token id. Special tokens, and ids the vocabulary lacks (Qwen pads it to 152,064), are empty."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = tuple(table)

    @classmethod
    def load(cls, tokenizer_json: Path) -> TokenBytes:
        return cls(byte_alphabet.token_bytes(json.loads(tokenizer_json.read_text(encoding="utf-8"))))

    def join(self, ids: Iterable[int]) -> bytes:
        table, size = self._table, len(self._table)
        return b"".join([table[i] for i in ids if i < size])


class TextStream:
    """The text of one sequence as its token ids arrive, cut at the first stop string.

    ``tokens`` counts the ids that belong to the answer: all of them, or those up to the one that completed a stop
    string. A stop string that is complete within the first ``min_tokens`` tokens does not count (as in vLLM).
    """

    __slots__ = ("_bytes", "_decoder", "_matcher", "_min_tokens", "tokens")

    def __init__(
        self, token_bytes: TokenBytes, stops: Sequence[str] = (), include_stop: bool = False, min_tokens: int = 0
    ) -> None:
        self._bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stops, include_stop) if stops else None
        self._min_tokens = min_tokens
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        return self._matcher is not None and bool(self._matcher.matched)

    def push(self, ids: Sequence[int]) -> str:
        """Text that ``ids`` complete; may be empty. Nothing more comes once ``stopped``."""
        if self._matcher is None:
            self.tokens += len(ids)
            return self._decoder.decode(self._bytes.join(ids))
        pieces = []
        for token in ids:
            if self.stopped:
                break
            self.tokens += 1
            text = self._decoder.decode(self._bytes.join((token,)))
            pieces.append((self._matcher.push if self.tokens > self._min_tokens else self._matcher.skip)(text))
        return "".join(pieces)

    def finish(self, *, cut: bool = False) -> str:
        """Held-back text. Of an incomplete last character: nothing where the answer was ``cut`` off within it, else
        U+FFFD, as in a decode of all ids at once."""
        if self.stopped:
            return ""
        tail = "" if cut else self._decoder.decode(b"", final=True)
        if self._matcher is None:
            return tail
        text = self._matcher.push(tail)
        return text if self.stopped else text + self._matcher.flush()
