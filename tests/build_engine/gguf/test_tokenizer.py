"""The tokenizer in a GGUF file against the tokenizer.json that it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from build_engine import tokenizer_files
from build_engine.gguf.header import Header
from build_engine.gguf.tokenizer import LLAMA_CPP_SAMPLING, GgufTokenizer
from build_engine.staging import cache_directory
from contract.errors import BuildError
from serving.tokenizer.encoder import PROBE, Encoder
from tests.build_engine.gguf.files import vocabulary
from tests.oracle import expected


def of(**metadata: Any) -> GgufTokenizer:
    given = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return GgufTokenizer(Header((Path("m.gguf"),), vocabulary() | given, {}))


def ids(made: Tokenizer, text: str, special: bool = False) -> list[int]:
    return list(made.encode(text, add_special_tokens=special).ids)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5's own tokenizer, written as a converter writes it and read back."""
    directory = tmp_path_factory.mktemp("qwen")
    own = json.loads((tokenizer_files.cached(cache_directory()) / "tokenizer.json").read_text())
    tokens = {number: text for text, number in own["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, 1)
    for token in own["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], 3 if token["special"] else 4
    filled = range(len(tokens), 151936)
    made = of(
        pre="qwen2",
        tokens=[*(tokens[i] for i in range(len(tokens))), *(f"[PAD{i}]" for i in filled)],
        token_type=[*(kinds[i] for i in range(len(tokens))), *(5 for _ in filled)],
        merges=[" ".join(merge) for merge in own["model"]["merges"]],
        bos_token_id=151643,
        eos_token_id=151645,
        add_bos_token=False,
    )
    made.write(directory, 32768)
    return directory


def test_qwen2_encodes_as_its_own_tokenizer_and_as_fast(qwen: Path) -> None:
    own = Encoder(tokenizer_files.cached(cache_directory()) / "tokenizer.json")
    read = Encoder(qwen / "tokenizer.json")
    assert read.is_fast
    for text in (*PROBE, *expected.texts(), "e\u0301 nfc"):
        assert read.encode(text) == own.encode(text)
        assert read.tokenizer.decode(read.encode(text)) == own.tokenizer.decode(own.encode(text))
    assert read.tokenizer.get_vocab_size() == tokenizer_files.TOKENIZER_SIZE
    assert json.loads((qwen / "generation_config.json").read_text())["eos_token_id"] == [151645, 151643]
    assert json.loads((qwen / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_digits_are_cut_off_one_by_one() -> None:
    tokens = [*vocabulary()["tokenizer.ggml.tokens"][:259], "12", "Ġ1"]
    words = {"tokens": tokens, "token_type": [3, 3, *[1] * 259], "merges": ["h e", "Ġ 1", "1 2"]}
    plain, digits = (of(pre=pre, **words).tokenizer() for pre in ("gpt-2", "smollm"))
    assert [plain.id_to_token(i) for i in ids(plain, "he 12")] == ["he", "Ġ1", "2"]
    assert [digits.id_to_token(i) for i in ids(digits, "he 12")] == ["he", "Ġ", "1", "2"]
    assert plain.decode(ids(plain, "he 12 é")) == digits.decode(ids(digits, "he 12 é")) == "he 12 é"


def test_llama3_takes_whole_words_and_begins_with_bos() -> None:
    tokens = [*vocabulary()["tokenizer.ggml.tokens"][:259], "123"]
    made = of(pre="llama-bpe", tokens=tokens, token_type=[3, 3, *[1] * 258], merges=["h e"])
    own = made.tokenizer()
    assert ids(own, "1234") == [tokens.index("123"), tokens.index("4")]
    assert ids(own, "he", special=True) == [0, tokens.index("he")] and ids(own, "he") == [tokens.index("he")]
    assert made.tokenizer_config(64)["add_bos_token"] is True
    assert of(pre="llama-bpe", add_bos_token=False).tokenizer_config(64)["add_bos_token"] is False


def test_special_tokens_are_found_where_they_stand() -> None:
    made = of().tokenizer()
    number = made.token_to_id("<|extra_7|>")
    assert number == vocabulary()["tokenizer.ggml.tokens"].index("<|extra_7|>")
    assert ids(made, "he<|extra_7|></s>") == [258, number, 1] and made.decode([258, number]) == "he"


def test_generation_defaults() -> None:
    assert of().generation_config() == {"bos_token_id": 0, "eos_token_id": [1], "do_sample": True, **LLAMA_CPP_SAMPLING}
    named = Header((Path("m.gguf"),), vocabulary() | {"general.sampling.temp": 0.5, "general.sampling.top_k": 7}, {})
    found = GgufTokenizer(named).generation_config()
    assert (found["temperature"], found["top_k"], "top_p" in found) == (0.5, 7, False)
    assert of().generation_config({"temperature": 0.1})["temperature"] == 0.1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": "llama"}, "tokenizer of the kind 'llama'; only byte-level BPE"),
        ({"pre": "bloom"}, r"splits text by the rule 'bloom' \(tokenizer\.ggml\.pre\), which is unknown"),
        ({"tokens": None}, r"has no tokenizer\.ggml\.tokens"),
        ({"token_type": [1]}, "512 tokens and 1 token types"),
        ({"merges": ["h nowhere"]}, "its tokenizer is damaged"),
        ({"merges": ["he"]}, "the merge 'he' has one part"),
        ({"merges": ["h \udcc3"]}, "is not UTF-8 text"),
        ({"eos_token_id": 512}, "eos_token_id 512 is not one of the 512 tokens"),
        ({"bos_token_id": 99999, "add_bos_token": True}, "bos_token_id 99999 is not one of the 512 tokens"),
    ],
)
def test_tokenizers_that_cannot_be_read(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message) as error:
        of(**metadata).tokenizer()
    assert "\n" not in str(error.value)
