"""The quick encoder gives the very ids of the checkpoint's own tokenizer, or steps aside."""

from __future__ import annotations

import copy
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from contract.engine_dir import EngineInfo
from serving.tokenizer.encoder import Encoder

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>", "<|fim_pad|>", "<|im_")
END = 256 + 3000  # ordinary tokens of ``short``
PIECES = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=" \t\r\n\u00a0\u2003\u3000\u0085\u200b'sSdDtTmMlLvVrReE019.,!?-_", max_size=12),
    st.text(alphabet="你好世界日本語한국어नमस्तेไทยעבריתعربىПривет🙂👨\u200d👩🇩🇪½①ﬁ", max_size=10),
    st.text(alphabet="ae>\u0301\u0308\u0338\u0323Å가ᄀ\u1161", max_size=6),  # NFC has something to do
    st.sampled_from(SPECIAL),
)


@pytest.fixture(scope="module")
def encoder(engine: EngineInfo) -> Encoder:
    return Encoder(engine.path / "tokenizer.json")


def same(encoder: Encoder, tokenizer: Tokenizer, text: str) -> bool:
    return encoder.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_qwens_tokenizer_is_taken_over(encoder: Encoder) -> None:
    assert encoder.is_fast


@given(pieces=st.lists(PIECES, max_size=12))
def test_any_text(encoder: Encoder, tokenizer: Tokenizer, pieces: list[str]) -> None:
    assert same(encoder, tokenizer, "".join(pieces))


def test_characters_of_every_block_of_unicode(encoder: Encoder, tokenizer: Tokenizer) -> None:
    """All 1,112,064 were compared once (docs/decisions.md); here every 61st, among letters, digits and line ends."""
    points = (c for c in range(0, 0x110000, 61) if not 0xD800 <= c <= 0xDFFF)
    wrong = [c for c in points if not same(encoder, tokenizer, "a{0}b 1{0}2 {0}{0} \n{0}.{0}'s".format(chr(c)))]
    assert not wrong


def test_a_mark_after_a_special_token_does_not_melt_into_it(encoder: Encoder, tokenizer: Tokenizer) -> None:
    text = "<|im_end|>\u0338"  # NFC of the whole text would make ">" and the mark one character
    assert unicodedata.normalize("NFC", text) != text
    assert same(encoder, tokenizer, text)


@pytest.mark.parametrize("unit", ["a", " ", "\n", "-=_", "你好", "🙂", "x9"])
def test_long_runs_take_no_quadratic_time(encoder: Encoder, tokenizer: Tokenizer, unit: str) -> None:
    assert same(encoder, tokenizer, unit * 100_000)  # the suite's timeout ends what would take hours


@pytest.fixture(scope="module")
def short(engine: EngineInfo) -> dict[str, Any]:
    """Qwen's tokenizer with its first 3,000 merges, else the same: the whole one takes seconds to read."""
    data: dict[str, Any] = json.loads((engine.path / "tokenizer.json").read_text(encoding="utf-8"))
    model = data["model"]
    model["merges"] = model["merges"][:3000]
    model["vocab"] = {text: token for text, token in model["vocab"].items() if token < END}
    for at, added in enumerate(data["added_tokens"]):
        added["id"] = END + at
    return data


def changed(short: dict[str, Any], path: Path, **parts: Any) -> Encoder:
    data = copy.deepcopy(short)
    for name, value in parts.items():
        section, _, key = name.partition("__")
        if key:
            data[section][key] = value
        else:
            data[section] = value
    path.write_text(json.dumps(data))
    return Encoder(path)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}},
        {"model__byte_fallback": True},
        {"added_tokens": [{"id": END, "content": "<|x|>", "single_word": True, "lstrip": False, "rstrip": False,
                           "normalized": False, "special": True}]},
    ],
    ids=["normalizer", "pre-tokenizer", "byte fallback", "whole words only"],
)  # fmt: skip
def test_another_kind_of_tokenizer_is_left_to_its_own_library(
    short: dict[str, Any], tmp_path: Path, parts: dict[str, Any]
) -> None:
    encoder = changed(short, tmp_path / "tokenizer.json", **parts)
    assert not encoder.is_fast
    assert same(encoder, Tokenizer.from_file(str(tmp_path / "tokenizer.json")), "Hello <|x|>, WORLD! 你好")


def test_merges_in_another_order_are_left_to_their_own_library(short: dict[str, Any], tmp_path: Path) -> None:
    merges = short["model"]["merges"]
    assert changed(short, tmp_path / "tokenizer.json", model__merges=merges).is_fast
    assert not changed(short, tmp_path / "tokenizer.json", model__merges=merges[::-1]).is_fast


def test_a_file_that_cuts_texts_cuts_no_prompt(short: dict[str, Any], tmp_path: Path) -> None:
    """Training scripts save their own truncation and padding with the tokenizer."""
    truncation = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    cut = changed(short, tmp_path / "tokenizer.json", truncation=truncation)
    quick, exact = (
        "word " * 50,
        "word " * 50 + "A\u030a",
    )  # the second is not NFC: the checkpoint's own library reads it
    assert cut.is_fast and min(len(cut.encode(quick)), len(cut.encode(exact))) >= 50


def test_a_text_begins_with_the_tokenizers_own_token(tmp_path: Path, short: dict[str, Any], encoder: Encoder) -> None:
    """As Llama's: a template writes it itself, plain text needs it put there."""
    tokenizer = Tokenizer.from_str(json.dumps(short))
    assert encoder.begun([7]) == [7]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", END + 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    begins = Encoder(tmp_path / "tokenizer.json")
    assert begins.encode("a") == [64] and begins.begun([64]) == [END + 1, 64] == begins.begun([END + 1, 64])
