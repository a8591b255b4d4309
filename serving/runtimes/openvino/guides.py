"""Guided decoding with llguidance: a guide becomes a grammar, checked before anything is queued."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, gbnf_to_lark

from contract import byte_alphabet
from contract.errors import InvalidRequest, shown
from contract.sampling import Guide
from serving import structural_tag
from serving.json_schema import prepared
from serving.runtimes.openvino.endings import BRIEF, THOROUGH, Ending, EndingSearch
from serving.runtimes.openvino.lenient import readable, readable_or_any
from serving.runtimes.openvino.regexes import narrowed, narrowed_in_lark
from serving.runtimes.openvino.sampling import GrammarError
from serving.runtimes.openvino.survivable import checked_lark, checked_schema, plain, written
from serving.runtimes.openvino.tags import (
    UNFORCED,
    Known,
    Lark,
    Quoted,
    TaggedText,
    Trigger,
    Vocabulary,
    as_it_is,
    quoted,
    triggered,
)
from serving.structural_tag import Format

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MASK_SECONDS = 0.05  # processor time for one token's mask: all sequences of the step wait for it
UNSATISFIABLE = "no text satisfies it, perhaps because a rule or reference leads only to itself; correct it"
FORGETTING = 0.9  # of a slow mask, with each mask after it
KEPT = 32  # compiled grammars
# One Earley item and more per optional property of a schema; 2,000 by default. MASK_SECONDS bounds the time instead.
LIMITS = LLParserLimits(max_items_in_row=50_000, step_max_items=500_000)
# Bounded, or a model that likes blanks would never close an object.
JSON_OPTIONS: JsonCompileOptions = {"whitespace_pattern": r"\n? {0,16}"}
OVERLAP = "oneOf constraints are not supported"


def grammar_of(guide: Guide) -> str:
    """llguidance's grammar text. Raises ``ValueError`` when the guide does not compile."""
    return _checked(_translate(guide))


def _checked(grammar: str) -> str:
    problem = LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        raise ValueError(problem)
    return grammar


def tag_grammar(tree: Format, literal: Quoted) -> str:
    """The grammar text of a structural tag. Raises ``ValueError`` when it does not compile."""

    def written(known: Known) -> str:
        return _checked(LLMatcher.grammar_from_lark(Lark(tree, literal, dict(JSON_OPTIONS), _lark, known).text()))

    try:
        return written(as_it_is)
    except ValueError:
        return written(readable_or_any)


def _translate(guide: Guide) -> str:
    if guide.type == "regex":
        return LLMatcher.grammar_from_regex(narrowed(guide.guide))
    if guide.type == "ebnf_grammar":
        return LLMatcher.grammar_from_lark(_lark(guide.guide))
    schema = json.loads(prepared(guide.guide))
    if not isinstance(schema, (dict, bool)):
        raise ValueError("a JSON schema is an object")
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    left = readable(schema)
    checked_schema(left)
    return LLMatcher.grammar_from_json_schema(written(left), overrides=JSON_OPTIONS)


def _lark(text: str) -> str:
    """GBNF (llama.cpp, xgrammar: ``root ::=``) or Lark (``start:``), as Lark. ``?name:`` only says how a parse tree
    is drawn, so its mark goes; llguidance does not know it."""
    try:
        lark = gbnf_to_lark.any_to_lark(re.sub(r"^[?!](?=\w+\s*(\.\d+\s*)?:(?!:=))", "", text, flags=re.MULTILINE))
    except Exception as error:
        raise ValueError(str(error)) from error
    checked_lark(lark)
    return f"{narrowed_in_lark(lark)}\n%llguidance {UNFORCED}"  # last, since the last one counts


class Grammars:
    """Makes grammar states for one tokenizer. Building the token trie takes about a second: do it ahead of need.

    A compiled grammar is kept with its automaton as far as it was built, and copied for each sequence. llguidance's own
    limits ("fuel") do not bound the time of a mask, so ``start`` measures the first two. Owned by one thread.
    """

    def __init__(self, tokenizer_json: Path, vocab_size: int, end_ids: list[int]) -> None:
        self.vocab_size = vocab_size
        self.end_ids = frozenset(end_ids)
        text = tokenizer_json.read_text(encoding="utf-8")
        data = json.loads(text)
        self._compiled: dict[Guide, LLGuidanceState | TaggedText | ValueError] = {}
        self._tokenizer = LLTokenizer(text, n_vocab=vocab_size, eos_token=end_ids)
        self._added = [str(token["content"]) for token in data.get("added_tokens", [])]
        self._vocabulary = Vocabulary(byte_alphabet.token_bytes(data)[:vocab_size])
        self._search = EndingSearch(self._tokenizer, end_ids[0])

    def start(self, guide: Guide) -> LLGuidanceState | TaggedText:
        """Raises ``ValueError`` when the guide does not compile, or would hold up every step."""
        found = self._compiled.pop(guide, None) or self._made(guide)
        self._compiled[guide] = found  # the last one used is the last one forgotten
        while len(self._compiled) > KEPT:
            del self._compiled[next(iter(self._compiled))]
        if isinstance(found, ValueError):
            raise ValueError(str(found))
        return found.copy()

    def ending(self, guide: Guide, state: LLGuidanceState | TaggedText, max_tokens: int) -> Ending:
        """For a sequence that was started. Raises ``InvalidRequest`` where ``max_tokens`` are too few for any answer,
        ``ValueError`` where no ending is found."""
        compiled = self._compiled[guide]
        assert not isinstance(compiled, ValueError)
        first = compiled.first_ending()
        if first is None:
            raise ValueError("no short answer was found that this guide allows; leave guided_decoding_complete out")
        if len(first) > max_tokens:
            problem = f"{max_tokens} are too few for the shortest answer of this guide; give at least {len(first)}"
            raise InvalidRequest("max_tokens", problem)
        return Ending(state, first, self._search.end)

    def _made(self, guide: Guide) -> LLGuidanceState | TaggedText | ValueError:
        try:
            return self._tagged(guide) if guide.type == "structural_tag" else self._compile(grammar_of(guide))
        except TooSlow as error:
            return error
        except ValueError as error:
            return ValueError(_refusal(guide, str(error)))

    def _tagged(self, guide: Guide) -> LLGuidanceState | TaggedText:
        """Free text between tags has no mask: masking begins with a tag's trigger. With an optional guide it ends where
        the grammar gives up."""
        tree = structural_tag.parsed(guide.guide)
        parts = triggered(tree)
        if parts is None:
            return self._compile(tag_grammar(tree, self._literal))
        triggers = [
            Trigger(text, self._compile(tag_grammar(tags, self._literal)).copy, self._vocabulary)
            for text, tags in parts.items()
        ]
        once = bool(tree.get("stop_after_first"))
        return TaggedText(triggers, self._vocabulary, self.vocab_size, once=once, optional=guide.optional)

    @cached_property
    def _special(self) -> dict[str, int]:
        """The tokens that llguidance never takes for their text, ``<tool_call>`` of Qwen among them."""
        ids = {text: self._tokenizer.tokenize_str(text, parse_special=True) for text in self._added}
        return {
            t: found[0] for t, found in ids.items() if len(found) == 1 and self._tokenizer.is_special_token(found[0])
        }

    def _literal(self, text: str) -> str:
        """A text as Lark terminals: special tokens as such, all else quoted."""
        special = "|".join(re.escape(token) for token in sorted(self._special, key=len, reverse=True))
        parts = re.split(f"({special})", text) if special else [text]
        return " ".join(f"<[{self._special[p]}]>" if p in self._special else quoted(p) for p in parts if p)

    def _compile(self, grammar: str) -> LLGuidanceState:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        matcher.compute_bitmask()  # builds most of the automaton, in this thread instead of a step's
        began = time.thread_time()
        matcher.compute_bitmask()
        if matcher.is_error():
            raise ValueError(_problem(matcher))
        seconds = time.thread_time() - began
        if seconds > MASK_SECONDS:
            raise TooSlow
        return LLGuidanceState(matcher, self.vocab_size, self._tokenizer, self._search, Pace(seconds))


class TooSlow(GrammarError):
    def __init__(self) -> None:
        super().__init__("the grammar takes too long for each token; use fewer or smaller repetitions")


def _refusal(guide: Guide, reason: str) -> str:
    """What to tell the caller; a keyword that llguidance does not have is no fault of the schema."""
    unknown = re.search(r"Unimplemented keys: \[(.*?)\]", reason)
    if unknown:
        names = " and ".join(name.strip('" ') for name in unknown[1].split(","))
        return f"this engine cannot enforce {names} (in {shown(guide.guide)}); leave it out and check the answer"
    if OVERLAP in reason:
        return (
            f"oneOf (in {shown(guide.guide)}) cannot be enforced, since one value may fit two of its branches; "
            "write anyOf, or give each branch a required property with a const of its own"
        )
    return f"{shown(guide.guide)} is not a valid {guide.type} ({_complaint(guide, reason)[:200]}): correct it"


def _complaint(guide: Guide, reason: str) -> str:
    """What is wrong, in one sentence: llguidance draws the place below it, in a grammar that is often its own."""
    where = plain(reason.partition("\n")[0].strip())
    if guide.type != "ebnf_grammar":  # the place is one in what we made of the guide
        where = re.sub(r"^(at )?\d+\(\d+\): ", "", where)
    what = re.search(r"^error: (.+)", reason, re.MULTILINE)  # of a regular expression's parser
    if not what:
        return where
    where = re.sub(r"( \(in regex\): )?regex parse error:$", "", where)
    return f"{where}: {what[1]}" if where and guide.type != "regex" else what[1]


def _problem(matcher: LLMatcher) -> str:
    """The matcher's error in one sentence: its own text goes on with a dump of its state."""
    reason = (matcher.get_error() or "").partition("\n")[0].strip()
    return UNSATISFIABLE if reason == "NoExtensionBias" else f"the grammar cannot be followed ({reason[:200]})"


@dataclass(slots=True)
class Pace:
    """What a mask of one guide is likely to take, known to all sequences that follow it: what took the first of them
    long in a step will take the others as long."""

    seconds: float

    def learn(self, seconds: float) -> None:
        self.seconds = max(seconds, FORGETTING * self.seconds)


class LLGuidanceState:
    """One sequence's place in its grammar; see ``GrammarState``."""

    def __init__(
        self, matcher: LLMatcher, vocab_size: int, tokenizer: LLTokenizer, search: EndingSearch, pace: Pace
    ) -> None:
        self._matcher, self._tokenizer, self._search = matcher, tokenizer, search
        self._pace = pace
        self._vocab_size = vocab_size

    @property
    def seconds(self) -> float:
        return self._pace.seconds

    def allowed(self) -> npt.NDArray[np.bool_]:
        began = time.thread_time()
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        seconds = time.thread_time() - began
        self._pace.learn(seconds)
        if seconds > MASK_SECONDS:
            raise TooSlow
        if self._matcher.is_error():
            raise GrammarError(_problem(self._matcher))
        return np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            failed = _problem(self._matcher) if self._matcher.is_error() else f"it does not allow token {token}"
            raise GrammarError(failed)

    def copy(self) -> LLGuidanceState:
        copied = self._matcher.deep_copy()
        return LLGuidanceState(copied, self._vocab_size, self._tokenizer, self._search, self._pace)

    @cached_property
    def _first(self) -> list[int] | None:
        return self._search.find(self._matcher, masks=THOROUGH)

    def first_ending(self) -> list[int] | None:
        """The shortest answer, searched for once: a compiled grammar stays at its beginning."""
        return self._first

    def ending_after(self, token: int | None, known: Sequence[int]) -> list[int] | None:
        matcher = self._matcher.deep_copy()
        if token is not None and not matcher.consume_token(token):
            return None
        return self._search.find(matcher, known, masks=BRIEF)

    def reaches(self, text: bytes) -> bool:
        """Whether ``text`` may come next; if so, the state moves behind it."""
        tokens = self._tokenizer.tokenize_bytes(text)
        return not tokens or self._matcher.try_consume_tokens(tokens) == len(tokens)

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped())
