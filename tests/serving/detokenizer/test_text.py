"""Token ids to text: the same for every cut, and exactly what the tokenizer says."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from contract.byte_alphabet import CHARACTERS
from serving.detokenizer.text import TextStream, TokenBytes
from tests.serving.strategies import TEXTS, VOCABULARY, cuts, token_ids


def one_shot(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@given(data=st.data())
def test_every_cut_gives_the_one_shot_text(data: st.DataObject, tokenizer: Tokenizer, token_bytes: TokenBytes) -> None:
    ids = data.draw(token_ids(tokenizer))
    stream = TextStream(token_bytes)
    shown = [stream.push(piece) for piece in data.draw(cuts(ids))]
    expected = one_shot(tokenizer, ids)
    assert "".join([*shown, stream.finish()]) == expected
    assert stream.tokens == len(ids)


@given(data=st.data())
def test_a_stop_string_cuts_the_same_for_every_cut_of_the_tokens(
    data: st.DataObject, tokenizer: Tokenizer, token_bytes: TokenBytes
) -> None:
    ids = data.draw(token_ids(tokenizer))
    text = one_shot(tokenizer, ids)
    stops = data.draw(st.lists(_parts_of(text), min_size=1, max_size=3))
    include = data.draw(st.booleans())
    whole = TextStream(token_bytes, stops, include)
    expected = "".join([whole.push([token]) for token in ids] + [whole.finish()])
    stream = TextStream(token_bytes, stops, include)
    shown = "".join([stream.push(piece) for piece in data.draw(cuts(ids))] + [stream.finish()])
    assert shown == expected
    assert stream.tokens == whole.tokens
    assert text.startswith(shown)
    if not include:
        assert not any(stop in shown for stop in stops)


def _parts_of(text: str) -> st.SearchStrategy[str]:
    inside = st.tuples(st.integers(0, len(text)), st.integers(1, 4)).map(lambda p: text[p[0] : p[0] + p[1]])
    return st.one_of(inside, st.text(min_size=1, max_size=3)).filter(bool)


@pytest.mark.parametrize("text", TEXTS)
def test_one_token_at_a_time_never_shows_half_a_character(
    text: str, tokenizer: Tokenizer, token_bytes: TokenBytes
) -> None:
    stream = TextStream(token_bytes)
    pieces = [stream.push([token]) for token in tokenizer.encode(text, add_special_tokens=False).ids]
    assert "".join(pieces) == unicodedata.normalize("NFC", text)  # as Qwen's tokenizer takes it in
    assert stream.finish() == ""
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


def test_a_character_left_unfinished_shows_once_at_the_end(tokenizer: Tokenizer, token_bytes: TokenBytes) -> None:
    ids = [tokenizer.token_to_id(CHARACTERS[byte]) for byte in "世".encode()[:2]]
    stream = TextStream(token_bytes)
    assert [stream.push([token]) for token in ids] == ["", ""]
    assert stream.finish() == "\ufffd" == one_shot(tokenizer, ids)


def test_half_a_character_where_an_answer_was_cut_off_is_left_out(
    tokenizer: Tokenizer, token_bytes: TokenBytes
) -> None:
    """But not what was held back for a stop string, nor broken bytes in front of it."""
    ids = [tokenizer.token_to_id(CHARACTERS[byte]) for byte in b"ab\xff" + "世".encode()[:2]]
    assert (plain := TextStream(token_bytes)).push(ids) + plain.finish(cut=True) == "ab\ufffd"
    held = TextStream(token_bytes, ("b\ufffdc",))
    assert [held.push(ids), held.finish(cut=True)] == ["a", "b\ufffd"]


def test_every_id_has_the_bytes_that_the_tokenizer_shows(tokenizer: Tokenizer, token_bytes: TokenBytes) -> None:
    """All 152,064 ids, ten thousand at a time; a lone byte of a character is U+FFFD on both sides."""
    for start in range(0, VOCABULARY, 10_000):
        ids = range(start, min(start + 10_000, VOCABULARY))
        ours = [token_bytes.join([i]).decode("utf-8", "replace") for i in ids]
        assert ours == tokenizer.decode_batch([[i] for i in ids], skip_special_tokens=True)


def test_special_tokens_are_silent_and_added_ones_are_text(tokenizer: Tokenizer, token_bytes: TokenBytes) -> None:
    assert token_bytes.join([tokenizer.token_to_id("<|im_end|>")]) == b""
    assert token_bytes.join([tokenizer.token_to_id("<tool_call>")]) == b"<tool_call>"
    assert token_bytes.join([152063]) == b""


@pytest.mark.parametrize(
    ("stop", "text", "tokens"), [("b", "abca", 5), ("ab", "abc", 5), ("ca", "ab", 4), ("abc", "abc", 6)]
)
def test_a_stop_string_counts_where_it_is_complete_after_min_tokens(
    stop: str, text: str, tokens: int, tokenizer: Tokenizer, token_bytes: TokenBytes
) -> None:
    ids = [tokenizer.token_to_id(letter) for letter in "abcabc"]
    stream = TextStream(token_bytes, [stop], min_tokens=3)
    assert stream.push(ids) + stream.finish() == text
    assert stream.stopped and stream.tokens == tokens
