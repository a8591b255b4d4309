"""A tokenizer with one token per byte, and further words where a test needs some."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def byte_tokenizer(words: Sequence[str] = (), special: Sequence[str] = ()) -> Tokenizer:
    """Ids 0 to 255 are the bytes, in the order of their spelling; then come ``words``, then ``special`` tokens."""
    encode = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    longer = [encode.pre_tokenize_str(word)[0][0] for word in words]
    pieces = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *longer])
    tokenizer = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = encode, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    return tokenizer
