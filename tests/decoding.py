"""The text of an answer that was cut off, by Hugging Face's tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer

from contract.byte_alphabet import CHARACTERS

_MORE = (0x80, 0x90, 0xA0)  # one of them continues any character that is not complete


def cut_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """``decode`` without the U+FFFD of half a character at the end."""
    whole = str(tokenizer.decode(ids, skip_special_tokens=True))
    continued = (tokenizer.decode([*ids, tokenizer.token_to_id(CHARACTERS[byte])]) for byte in _MORE)
    return whole.removesuffix("\ufffd") if any(text != whole + "\ufffd" for text in continued) else whole
