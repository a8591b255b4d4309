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


def test_the_chosen_token_comes_first_among_the_alternatives() -> None:
    """vLLM's clients read it there; it stood last unless it was the best."""
    logprobs = TokenLogprobs([b"a", b"b", b"c"].__getitem__, chat=False)
    tops, ids = b"[[[2,-0.5],[0,-1.0]],[[1,-0.25]]]", b"\x01\0\0\0" * 2
    got = SequenceOutput("bb", None, 5, 2, 0, 2, 0, ids=ids, log_probs=struct.pack("<2f", -4.0, -0.25), tops=tops)
    first, second = logprobs.of(got, ())["top_logprobs"]
    assert list(first.items()) == [("b", -4.0), ("c", -0.5), ("a", -1.0)] and second == {"b": -0.25}
