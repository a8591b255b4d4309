"""What is said about the prompt survives the way, whole or in parts."""

from __future__ import annotations

import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.prompt_part import PromptPart, join

INT32 = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


@st.composite
def parts(draw: st.DrawFn) -> PromptPart:
    count = draw(st.integers(0, 6))
    scores = draw(st.lists(FLOAT32, min_size=count, max_size=count))
    ranks = draw(st.lists(INT32, min_size=count, max_size=count))
    tops = orjson.dumps([[[rank, score]] for rank, score in zip(ranks, scores, strict=True)]) if count else b""
    return PromptPart(draw(st.lists(INT32, max_size=8)), scores, ranks, draw(st.sampled_from([tops, b""])))


@given(part=parts())
def test_a_part_survives(part: PromptPart) -> None:
    assert PromptPart.unpack(part.pack()) == part


@given(part=parts(), cuts=st.lists(st.integers(0, 6), max_size=3).map(sorted))
def test_parts_make_the_whole(part: PromptPart, cuts: list[int]) -> None:
    ends = [*(min(cut, len(part.log_probs)) for cut in cuts), len(part.log_probs)]
    tops, pieces, start = orjson.loads(part.tops or b"[]"), [PromptPart(part.ids)], 0
    for end in ends:
        some = orjson.dumps(tops[start:end]) if tops else b""
        pieces.append(PromptPart((), part.log_probs[start:end], part.ranks[start:end], some))
        start = end
    assert join(pieces) == part


@pytest.mark.parametrize("raw", [b"", b"\x07" * 11, struct.pack("<3i", 5, 0, 0), struct.pack("<3i", -1, 0, 0)])
def test_rubbish_is_an_error(raw: bytes) -> None:
    with pytest.raises((struct.error, ValueError)):
        PromptPart.unpack(raw)
