"""Classes of a pattern allow what every dialect of regular expressions allows."""

from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from contract.sampling import Guide
from serving.runtimes.openvino.guides import grammar_of, tag_grammar
from serving.runtimes.openvino.regexes import narrowed
from serving.runtimes.openvino.tags import quoted
from tests.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(byte_tokenizer(special=["<end>"]).to_str(), n_vocab=257, eos_token=[256])


def _allows(tokenizer: LLTokenizer, grammar: str, text: str) -> bool:
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"\d", "0 9", "٣ 🯸 ９ a"),
        (r"[\d.]{2}", "1. 12", "٣. 1٣"),
        (r"[[:alpha:]\d]", "a 3", "٣"),
        (r"[^\d]", "a é", "5 ٣ 🯸"),
        (r"[^]\d]", "a", "] 5 ٣"),
        (r"[]\d]", "] 5", "٣ a"),
        (r"\D", "a é", "5 ٣"),
        (r"\w+", "a_9", "é 中 ٣"),
        (r"\W", "- 。", "a é ٣"),
        (r"\\d", r"\d", "5"),
        (r"[\\d]", "\\ d", "5"),
        (r"\p{L}\d", "é5", "é٣"),
        (r"a{,2}b", "b aab", "aaab"),
        (r"[{,2}]", "{ , 2 }", "a"),
        (r"\Aab\Z", "ab", "abc"),
        (r"^\d{3}-[a-f]{2}$", "123-ab", "🯸🯸🯸-ab"),
    ],
)
def test_a_pattern_allows(tokenizer: LLTokenizer, pattern: str, yes: str, no: str) -> None:
    tag = {"type": "regex", "pattern": pattern}
    for grammar in (grammar_of(Guide("regex", pattern)), tag_grammar(tag, quoted)):
        assert [t for t in yes.split() if not _allows(tokenizer, grammar, t)] == []
        assert [t for t in no.split() if _allows(tokenizer, grammar, t)] == []


@pytest.mark.parametrize(("text", "fits"), [(" ", True), ("\t", True), ("\u205f", False), ("\u00a0", False)])
def test_white_space_is_ascii(tokenizer: LLTokenizer, text: str, fits: bool) -> None:
    assert _allows(tokenizer, grammar_of(Guide("regex", r"\s")), text) == fits


def test_a_schemas_patterns_are_as_narrow(tokenizer: LLTokenizer) -> None:
    grammar = grammar_of(Guide("json_schema", json.dumps({"type": "string", "pattern": r"^\d\w$"})))
    assert _allows(tokenizer, grammar, '"5a"') and not _allows(tokenizer, grammar, '"٣é"')


@pytest.mark.parametrize("grammar", [r'start: "\\d" /\d+/ // "/\d/', 'start: "\\\\d" N\nN: /[\\d]/'])
def test_a_grammars_terminals_are_as_narrow(tokenizer: LLTokenizer, grammar: str) -> None:
    made = grammar_of(Guide("ebnf_grammar", grammar))
    assert _allows(tokenizer, made, r"\d5") and not _allows(tokenizer, made, r"\d٣")


@pytest.mark.parametrize("pattern", ["", "[", "[^", "\\", "[[:", "{,", "a]", "[a\\"])
def test_what_is_no_pattern_stays_for_the_engine_to_refuse(pattern: str) -> None:
    assert narrowed(pattern) == pattern.replace("{,", "{0,")
