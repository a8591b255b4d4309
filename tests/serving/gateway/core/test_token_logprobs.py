"""Log probabilities of tokens that split characters."""

from __future__ import annotations

import struct

from contract.packed import SequenceOutput
from serving.gateway.core.token_logprobs import TokenLogprobs


def test_an_offset_counts_characters_though_tokens_split_them() -> None:
    """Each half of a character was counted as one."""
    pieces = [bytes([byte]) for byte in "é漢🙂a".encode()] + [b"\xff", b"b"]  # the last: what no text holds
    logprobs = TokenLogprobs(pieces.__getitem__, chat=False)
    offsets = []
    for at in range(len(pieces)):
        ids = at.to_bytes(4, "little")
        got = SequenceOutput("", None, 5, at, 0, at, 0, ids=ids, log_probs=struct.pack("<f", -1.0), tops=b"[[]]")
        offsets += logprobs.of(got, ())["text_offset"]
    text = b"".join(pieces).decode(errors="replace")
    assert offsets == [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 4, 5] and text[4:] == "\ufffdb"
