"""Guided decoding with llguidance: a guide becomes a grammar, checked before anything is queued."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, gbnf_to_lark

from contract.errors import InvalidRequest, shown
from contract.sampling import Guide
from serving.json_schema import prepared

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MASK_SECONDS = 0.05  # processor time for one token's mask: all sequences of the step wait for it
TOO_SLOW = "the grammar takes too long for each token; use fewer or smaller repetitions"
UNSATISFIABLE = "no text satisfies it, perhaps because a rule or reference leads only to itself; correct it"
KEPT = 32  # compiled grammars
FIELD = "guided_decoding_guide"
# Bounded, or a model that likes blanks would never close an object.
# oneOf is enforced as anyOf: an answer that fits two branches at once is not ruled out.
JSON_OPTIONS: JsonCompileOptions = {"whitespace_pattern": r"\n? {0,16}", "coerce_one_of": True}


def grammar_of(guide: Guide) -> str:
    """llguidance's grammar text. Raises ``InvalidRequest`` when the guide does not compile."""
    try:
        grammar = _translate(guide)
    except ValueError as error:
        raise _invalid(guide, str(error)) from error
    problem = LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        raise _invalid(guide, problem)
    return grammar


def _translate(guide: Guide) -> str:
    if guide.type == "regex":
        return LLMatcher.grammar_from_regex(guide.guide)
    if guide.type == "ebnf_grammar":
        return LLMatcher.grammar_from_lark(_lark(guide.guide))
    schema = json.loads(prepared(guide.guide)) if guide.type == "json_schema" else {}
    if not isinstance(schema, (dict, bool)):
        raise ValueError("a JSON schema is an object")
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)


def _lark(text: str) -> str:
    """GBNF (llama.cpp, xgrammar: ``root ::=``) or Lark (``start:``), as Lark. ``?name:`` only says how a parse tree
    is drawn, so its mark goes; llguidance does not know it."""
    try:
        return gbnf_to_lark.any_to_lark(re.sub(r"^[?!](?=\w+\s*(\.\d+\s*)?:(?!:=))", "", text, flags=re.MULTILINE))
    except Exception as error:
        raise ValueError(str(error)) from error


def _invalid(guide: Guide, reason: str) -> InvalidRequest:
    first = " ".join(reason.split())[:200]
    return InvalidRequest(FIELD, f"{shown(guide.guide)} is not a valid {guide.type} ({first}): correct it")


class Grammars:
    """Makes grammar states for one tokenizer. Building the token trie takes about a second: do it ahead of need.

    A compiled grammar is kept with its automaton as far as it was built, and copied for each sequence. llguidance's own
    limits ("fuel") do not bound the time of a mask, so ``start`` measures the first two. Owned by one thread.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, end_ids: list[int]) -> None:
        self.vocab_size = vocab_size
        self.end_ids = frozenset(end_ids)
        text = tokenizer_json.read_text(encoding="utf-8")
        self._compiled: dict[str, LLMatcher | str] = {}
        self._tokenizer = LLTokenizer(text, n_vocab=vocab_size, eos_token=end_ids)

    def start(self, grammar: str) -> LLGuidanceState:
        """Raises ``ValueError`` when the grammar cannot be used with this tokenizer, or would hold up every step."""
        found = self._compiled.pop(grammar, None) or self._compile(grammar)
        self._compiled[grammar] = found  # the last one used is the last one forgotten
        while len(self._compiled) > KEPT:
            del self._compiled[next(iter(self._compiled))]
        if isinstance(found, str):
            raise ValueError(found)
        return LLGuidanceState(found.deep_copy(), self.vocab_size)

    def _compile(self, grammar: str) -> LLMatcher | str:
        """The matcher, or why there is none."""
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        matcher.compute_bitmask()  # builds most of the automaton, in this thread instead of a step's
        began = time.thread_time()
        matcher.compute_bitmask()
        if matcher.is_error():
            return _problem(matcher)
        return TOO_SLOW if time.thread_time() - began > MASK_SECONDS else matcher


def _problem(matcher: LLMatcher) -> str:
    """The matcher's error in one sentence: its own text goes on with a dump of its state."""
    reason = (matcher.get_error() or "").partition("\n")[0].strip()
    return UNSATISFIABLE if reason == "NoExtensionBias" else f"the grammar cannot be followed ({reason[:200]})"


class LLGuidanceState:
    """One sequence's place in its grammar; see ``GrammarState``."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        began = time.thread_time()
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if time.thread_time() - began > MASK_SECONDS:
            raise ValueError(TOO_SLOW)
        if self._matcher.is_error():
            raise ValueError(_problem(self._matcher))
        return np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise ValueError(f"the grammar does not allow token {token}")

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped())
