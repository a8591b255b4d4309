"""Text to token ids: by tiktoken where it provably does the same, else by the checkpoint's Hugging Face tokenizer.

Encoding is most of what the tokenizer step adds to the first token: a prompt of 512 tokens takes Hugging Face's
tokenizers 1.5 ms and tiktoken 0.1 ms (docs/decisions.md). Both run byte-pair encoding over the same table; the second
keeps no offsets. It is used when ``tokenizer.json`` is byte-level BPE without surprises, the merges stand in the order
of their ids, and a probe in many scripts comes out alike; and for a text only when NFC, Qwen's normalizer, would leave
that text as it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import Tokenizer

from contract import byte_alphabet

log = logging.getLogger(__name__)

PROBE = (
    "The quick brown fox's 12345 jumps;\n\n  over\tI'LL we'Re ...!!! don't  \r\n x=f(y)[0]  # ok   ",
    "你好，世界！今天天气怎么样？　我们去吃饭。 日本語のテキスト、カタカナ。 한국어 문장입니다.",
    "Привет, мир! Ελληνικά; עברית العربية हिन्दी ไทย Tiếng Việt çà et là, größer, naïve, İstanbul ſ K",
    "🙂👨‍👩‍👧‍👦🇩🇪 ½ ① \u00a0\u2003\u200b\u0085\ufeff\ufffd\x00\x7f ﬁ",
    "<|im_start|>user\n<tool_call>{}</tool_call><|im_end|>\n<|nope|>",
)


class Encoder:
    """``encode`` never adds special tokens, and reads those that stand in the text (``<|im_end|>``) as such;
    ``encode_plain`` reads those as ordinary text."""

    def __init__(self, tokenizer_json: Path) -> None:
        """Raises ``OSError`` or ``ValueError`` for a file that cannot be read as a tokenizer."""
        self.tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self.tokenizer.no_truncation()  # a file saved while training may cut or pad: a prompt is never cut silently
        self.tokenizer.no_padding()
        self._plain = Tokenizer.from_file(str(tokenizer_json))
        self._plain.no_truncation()
        self._plain.no_padding()
        self._plain.encode_special_tokens = True
        self.longest_token = max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)))  # bytes
        self._beginning = _beginning(self.tokenizer)
        data = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        added = data.get("added_tokens", [])
        self.special_ids = {str(t["content"]): int(t["id"]) for t in added if t["special"]}
        self._ordinary = {str(t["content"]) for t in added if not t["special"]}  # <tool_call>
        self._fast = _fast(data)
        if self._fast is not None and any(self._quick(text) != self._exact(text) for text in PROBE):
            self._fast = None
        if self._fast is None:
            log.info("%s: encoded by Hugging Face's library; tiktoken cannot serve this vocabulary", tokenizer_json)

    @property
    def is_fast(self) -> bool:
        return self._fast is not None

    def encode(self, text: str) -> list[int]:
        """Releases the GIL while it works. ``text`` must be valid Unicode (no half surrogate pairs)."""
        if self._fast is not None and (text.isascii() or unicodedata.is_normalized("NFC", text)):
            with contextlib.suppress(ValueError):  # a million blanks in a row exceed its regex engine's stack
                return self._quick(text)
        return self._exact(text)

    def encode_plain(self, text: str) -> list[int]:
        """``encode`` of a text whose special tokens are only words."""
        if self._fast is not None and (text.isascii() or unicodedata.is_normalized("NFC", text)):
            with contextlib.suppress(ValueError):
                return self._fast.encode(text, allowed_special=self._ordinary, disallowed_special=())
        return list(self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def decode(self, ids: list[int]) -> str:
        """The text of ``ids``, special tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def begun(self, ids: list[int]) -> list[int]:
        """``ids`` with the special tokens that begin every text of this tokenizer (Llama's), unless they are there."""
        there = ids[: len(self._beginning)] == self._beginning
        return ids if there else [*self._beginning, *ids]

    def _quick(self, text: str) -> list[int]:
        assert self._fast is not None
        return self._fast.encode(text, allowed_special=self._fast.special_tokens_set, disallowed_special=())

    def _exact(self, text: str) -> list[int]:
        """Ids by Hugging Face's tokenizer. The batch call, because the one for a single text holds the GIL."""
        return list(self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def _beginning(tokenizer: Tokenizer) -> list[int]:
    plain, whole = (list(tokenizer.encode("a", add_special_tokens=flag).ids) for flag in (False, True))
    return whole[: -len(plain)] if plain and whole[-len(plain) :] == plain else []


def _fast(data: dict[str, Any]) -> tiktoken.Encoding | None:
    """The same tokenizer in tiktoken's terms, or ``None`` when it has something that tiktoken lacks."""
    pattern = _split_pattern(data)
    ranks = _ranks(data["model"])
    added: list[dict[str, Any]] = data.get("added_tokens", [])
    plain = not any(token[flag] for token in added for flag in ("normalized", "lstrip", "rstrip", "single_word"))
    if pattern is None or ranks is None or not plain:
        return None
    special = {str(token["content"]): int(token["id"]) for token in added}
    try:
        return tiktoken.Encoding("checkpoint", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    except ValueError:  # its regex engine lacks something that the pattern uses
        return None


def _split_pattern(data: dict[str, Any]) -> str | None:
    """The regular expression that cuts a text into words, if that and nothing else is done to it."""
    parts = (data.get("pre_tokenizer") or {}).get("pretokenizers", [])
    if (data.get("normalizer") or {"type": "NFC"}) != {"type": "NFC"} or [p["type"] for p in parts] != _STEPS:
        return None
    split, as_bytes = parts
    whole = split["behavior"] == "Isolated" and not split["invert"]
    if not whole or as_bytes["add_prefix_space"] or as_bytes.get("use_regex", True):
        return None
    pattern: str | None = split["pattern"].get("Regex")
    return pattern


_STEPS = ["Split", "ByteLevel"]


def _ranks(model: dict[str, Any]) -> dict[bytes, int] | None:
    """Bytes of each token -> its rank, if merging by rank is merging in the order of the merges."""
    if model["type"] != "BPE" or any(model.get(key) for key in _ODD):
        return None
    alphabet = byte_alphabet.BYTES
    vocab: dict[str, int] = model["vocab"]
    made = [vocab["".join(merge if isinstance(merge, list) else merge.split(" ", 1))] for merge in model["merges"]]
    in_order = made == sorted(set(made)) and len(made) + len(alphabet) == len(vocab)
    if not in_order or not all(char in alphabet for text in vocab for char in text):
        return None
    return {bytes(alphabet[char] for char in text): rank for text, rank in vocab.items()}


_ODD = ("dropout", "byte_fallback", "ignore_merges", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
