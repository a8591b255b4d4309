"""The alphabet against the tokenizers library, which spells bytes the same way."""

from __future__ import annotations

from tokenizers import pre_tokenizers

from contract.byte_alphabet import BYTES, CHARACTERS


def test_it_is_the_alphabet_of_byte_level_bpe() -> None:
    assert set(pre_tokenizers.ByteLevel.alphabet()) == set(CHARACTERS) == set(BYTES)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(0x80))) + "é世\U0001f600"
    spelled = "".join(part for part, _ in level.pre_tokenize_str(text))
    assert spelled == "".join(CHARACTERS[byte] for byte in text.encode())
    assert bytes(BYTES[character] for character in spelled) == text.encode()
