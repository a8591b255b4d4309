"""Structural tags on the CPU engine: text without a mask until a trigger, then what the tag's grammar allows.

A mask of free text forbids next to nothing and costs up to a millisecond per token of a large vocabulary. So free text
has none: only where the text ends with the beginning of a trigger are those tokens forbidden that would complete it
and go on with something else than the tag does.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving import structural_tag
from serving.runtimes.openvino.regexes import narrowed
from serving.runtimes.openvino.survivable import checked_schema, written
from serving.structural_tag import Format

# Of a grammar: llguidance 1.9.1 otherwise writes down the text that must come next, without an end where none can end,
# as in ``start: /a*/ "a"`` (terminals are greedy). It never comes back from that mask, and every guide waits.
UNFORCED = '{"no_forcing": true}'
Mask = npt.NDArray[np.bool_]
Quoted = Callable[[str], str]  # a text as Lark terminals
Known = Callable[[dict[str, Any]], dict[str, Any]]  # a schema as the engine can enforce it


def quoted(text: str) -> str:
    """A text as a Lark terminal, for a tokenizer without special tokens."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def as_it_is(schema: dict[str, Any]) -> dict[str, Any]:
    return schema


class Lark:
    """A format tree as one llguidance grammar. Raises ``ValueError`` for a format that it does not have."""

    def __init__(
        self,
        tree: Format,
        literal: Quoted,
        json_options: dict[str, Any],
        other: Callable[[str], str],
        known: Known = as_it_is,
    ) -> None:
        self._literal, self._options, self._other, self._known = literal, json_options, other, known
        self._rules: list[str] = []
        self._others: list[dict[str, str]] = []
        self._start = self._of(tree)

    def text(self) -> str:
        """What ``LLMatcher`` takes."""
        lark = "\n".join([f"%llguidance {UNFORCED}", f"start: {self._start}", *self._rules])
        if not self._others:
            return lark
        return json.dumps({"grammars": [{"name": "tags", "lark_grammar": lark}, *self._others]})

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _of(self, tree: Format) -> str:
        kind = tree.get("type")
        make = getattr(self, f"_{kind}", None) if kind in KINDS else None
        if make is None:
            raise ValueError(f"the format {str(kind)[:40]!r} is not among {', '.join(KINDS)}")
        try:
            return str(make(tree))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a {kind} lacks a part or has a wrong one ({error})") from error

    def _const_string(self, tree: Format) -> str:
        return self._literal(tree["value"]) or '""'

    def _json_schema(self, tree: Format) -> str:
        schema = tree["json_schema"]
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}
        schema = self._known(schema)
        checked_schema(schema)
        options = self._options | schema.get("x-guidance", {})
        return self._rule("%json " + written(schema | {"x-guidance": options}))

    def _regex(self, tree: Format) -> str:
        name = f"R{len(self._rules)}"
        self._rules.append(f"{name}: /{_slashed(narrowed(tree['pattern']))}/")
        return name

    def _grammar(self, tree: Format) -> str:
        self._others.append({"name": f"g{len(self._others)}", "lark_grammar": self._other(tree["grammar"])})
        return "@" + self._others[-1]["name"]

    def _sequence(self, tree: Format) -> str:
        return self._rule(" ".join(map(self._of, tree["elements"])))

    def _or(self, tree: Format) -> str:
        return self._rule(" | ".join(map(self._of, tree["elements"])))

    def _tag(self, tree: Format) -> str:
        return self._rule(f"{self._literal(tree['begin'])} {self._of(tree['content'])} {self._literal(tree['end'])}")

    def _tags_with_separator(self, tree: Format) -> str:
        one = self._or({"elements": tree["tags"]})
        more = "" if tree.get("stop_after_first") else f" ({self._literal(tree['separator'])} {one})*"
        return self._rule(one + more if tree.get("at_least_one") else f"({one}{more})?")


KINDS = ("const_string", "json_schema", "regex", "grammar", "sequence", "or", "tag", "tags_with_separator")


def _slashed(pattern: str) -> str:
    """A regular expression between slashes, where an unescaped one ends it."""
    out, escaped = [], False
    for char in pattern:
        out.append("\\/" if char == "/" and not escaped else char)
        escaped = char == "\\" and not escaped
    return "".join(out)


def triggered(tree: Format) -> dict[str, Format] | None:
    """For text with tags in it: trigger -> what follows it. ``None`` for a tree that constrains all of the text."""
    if tree["type"] != "triggered_tags":
        return None
    if tree.get("at_least_one"):
        raise ValueError("triggered_tags with at_least_one are not among the formats; use tags_with_separator")
    try:
        found: dict[str, list[Format]] = {trigger: [] for trigger in tree["triggers"]}
        for tag in tree["tags"]:
            trigger = next((t for t in found if t and tag["begin"].startswith(t)), None)
            if trigger is None:
                raise ValueError(f"the tag {tag['begin'][:40]!r} begins with none of the triggers")
            rest = tag["begin"].removeprefix(trigger)
            found[trigger].append(structural_tag.tag(rest, tag["content"], tag["end"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"triggered_tags lack a part or have a wrong one ({error})") from error
    return {trigger: {"type": "or", "elements": tags} for trigger, tags in found.items() if tags}


class TagState(Protocol):
    """A place in the grammar of one tag; implemented by ``LLGuidanceState``."""

    @property
    def seconds(self) -> float: ...

    def allowed(self) -> Mask: ...

    def accept(self, token: int) -> None: ...

    def reaches(self, text: bytes) -> bool:
        """Whether ``text`` may come next; if so, the state moves behind it."""

    def first_ending(self) -> list[int] | None: ...

    def ending_after(self, token: int | None, known: Sequence[int]) -> list[int] | None:
        """An ending from the place after ``token``, or from here when it is ``None``."""

    @property
    def finished(self) -> bool: ...


@dataclass(slots=True)
class Vocabulary:
    """The bytes of every token, and the tokens sorted by their bytes."""

    table: list[bytes]
    _sorted: list[tuple[bytes, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._sorted = sorted((text, token) for token, text in enumerate(self.table))

    def beginning(self, start: bytes) -> Iterator[tuple[bytes, int]]:
        """The tokens that are longer than ``start`` and begin with it."""
        for at in range(bisect_left(self._sorted, (start,)), len(self._sorted)):
            text, token = self._sorted[at]
            if not text.startswith(start):
                return
            if len(text) > len(start):
                yield text, token


class Trigger:
    """One trigger, and where its tags begin.

    ``forbidden``: the tokens that may not follow the first n bytes of the trigger, by n."""

    def __init__(self, text: str, start: Callable[[], TagState], vocabulary: Vocabulary) -> None:
        self.text, self.start = text.encode(), start
        self._begun = start()
        self.forbidden = {
            done: np.array([
                token
                for token_text, token in vocabulary.beginning(self.text[done:])
                if not start().reaches(token_text[len(self.text) - done :])
            ], np.int64)
            for done in range(1, len(self.text))
        }  # fmt: skip

    def first_ending(self) -> list[int] | None:
        """The shortest ending of any of its tags."""
        return self._begun.first_ending()

    def begun(self, tail: bytes) -> int:
        """How many bytes of the trigger the text ends with, if not with all of it."""
        sizes = range(min(len(tail), len(self.text) - 1), 0, -1)
        return next((size for size in sizes if tail.endswith(self.text[:size])), 0)


class TaggedText:
    """One sequence's place in a text with tags; a ``GrammarState`` that mostly has no mask."""

    def __init__(
        self, triggers: list[Trigger], vocabulary: Vocabulary, vocab_size: int, *, once: bool, optional: bool = False
    ) -> None:
        self._triggers, self._vocabulary, self._size, self._once = triggers, vocabulary, vocab_size, once
        self._optional = optional
        self._longest = max(len(trigger.text) for trigger in triggers)
        self._tail = b""
        self._tag: TagState | None = None
        self.finished = False

    def copy(self) -> TaggedText:
        """A new sequence's, at its beginning."""
        return TaggedText(self._triggers, self._vocabulary, self._size, once=self._once, optional=self._optional)

    @property
    def seconds(self) -> float:
        return self._tag.seconds if self._tag else 0.0

    def allowed(self) -> Mask | None:
        if self._tag is not None:
            try:
                return self._tag.allowed()
            except ValueError:
                if not self._optional:
                    raise
                self._tag = None  # the rest of this tag is free
        mask = None
        for trigger in self._triggers:
            forbidden = trigger.forbidden.get(trigger.begun(self._tail), ())
            if len(forbidden):
                mask = np.ones(self._size, np.bool_) if mask is None else mask
                mask[forbidden] = False
        return mask

    def accept(self, token: int) -> None:
        if self._tag is None:
            self._free(token)
            return
        try:
            self._tag.accept(token)
        except ValueError:
            if not self._optional:
                raise
            self._tag = None  # the rest of this tag is free
            return
        if self._tag.finished:
            self._tag, self._tail = None, b""
            self.finished = self._once

    def _free(self, token: int) -> None:
        text = self._with(token)
        entered = self._entered(text)
        if entered:
            self._tag, self._tail = entered[1], b""
        else:
            self._tail = text[-self._longest :]

    def _with(self, token: int) -> bytes:
        return self._tail + (self._vocabulary.table[token] if token < len(self._vocabulary.table) else b"")

    def _entered(self, text: bytes) -> tuple[Trigger, TagState] | None:
        """The tag that free text ends in."""
        for trigger in self._triggers:
            at = text.find(trigger.text)
            if at >= 0 and (tag := trigger.start()).reaches(text[at + len(trigger.text) :]):
                return trigger, tag
        return None

    def first_ending(self) -> list[int] | None:
        """None is needed: text may end anywhere. Those of the tags are looked for now, not when one begins."""
        return None if any(trigger.first_ending() is None for trigger in self._triggers) else []

    def ending_after(self, token: int, known: Sequence[int]) -> list[int] | None:
        """An ending of the tag that the answer is in after ``token``, if any."""
        if self._tag is not None:
            return self._tag.ending_after(token, known)
        entered = self._entered(self._with(token))
        return entered[1].ending_after(None, entered[0].first_ending() or ()) if entered else []
