"""Token sequences and the ways to cut them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st
from tokenizers import Tokenizer

T = TypeVar("T")

VOCABULARY = 152064  # the model's table: 399 ids at its end have no text
SPECIAL = range(151643, 151665)
LONE_BYTES = (*range(94, 256), *range(0, 5))  # ids of single bytes in Qwen2.5's vocabulary

TEXTS = (
    "你好，世界！通义千问是一个大语言模型。",
    "السلام عليكم ورحمة الله وبركاته",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumbs, 🏳️‍🌈 flag, e\u0301 combined, 𝔘𝔫𝔦",
    "नमस्ते दुनिया, こんにちは, 안녕하세요, ไทย",
    "plain ASCII\n\twith  spaces\r\n",
    "\ufffd is a character too",
)


def token_ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Whole texts, their torn-out parts, single bytes, special tokens and anything else of the vocabulary."""
    whole = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    parts = st.sampled_from(whole).flatmap(
        lambda ids: st.tuples(st.integers(0, len(ids)), st.integers(0, len(ids))).map(lambda p: ids[min(p) : max(p)])
    )
    one = st.one_of(
        st.sampled_from(LONE_BYTES), st.sampled_from(SPECIAL), st.integers(0, VOCABULARY - 1), st.integers(0, 400)
    ).map(lambda i: [i])
    return st.lists(st.one_of(parts, one, one), max_size=12).map(lambda pieces: [i for piece in pieces for i in piece])


@st.composite
def cuts(draw: st.DrawFn, items: Sequence[T]) -> list[Sequence[T]]:
    """``items`` in order, cut into consecutive pieces, some of them empty."""
    at = sorted(draw(st.lists(st.integers(0, len(items)), max_size=len(items) + 2)))
    return [items[a:b] for a, b in zip([0, *at], [*at, len(items)], strict=True)]
