"""Short endings of guided answers, so that an answer is whole when its ``max_tokens`` are used up.

llguidance says what may come next, not how far the end is, so the way there is searched for: cheapest first, over the
bytes that may follow. Text that the grammar forces needs no decision, brackets that may close do close, and of the
characters after which the same may follow (the letters of a string) one stands for all.

A sequence knows one ending at any time. A token that the model chooses stays when that ending, or one found from there,
fits into the tokens that are left; otherwise the known ending's next token takes its place. So what the search does not
find costs an answer some freedom, never its end.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llguidance import LLMatcher, LLTokenizer

THOROUGH = 2000  # masks before an answer begins, in the thread that compiles grammars
THOROUGH_SECONDS = 2.0  # of CPU time, and no longer: other grammars wait for that thread, and some masks take 15 ms
BRIEF = 40  # masks within a step: a few milliseconds with Qwen's vocabulary
QUOTE, LETTER, CLOSERS, COMMA = ord('"'), ord("x"), b"}]", b","
FREE = b"}],x"  # only free text allows all of these
BLANKS = b" \n"
FIRST = b'"0nft[{-123456789'  # what is shortest in JSON
TYPED = FIRST + bytes(byte for byte in range(128) if byte not in FIRST and byte not in BLANKS)
FEW = 3  # ways tried from a place that has many equally good ones
TAILS = 4  # parts of a known ending that are tried to the end from one place
OPENERS = {b"}": b"{", b"]": b"["}
VALUE = re.compile(rb'("(?:[^"\\]|\\.)*"|[^\s",:{}\[\]]+)\s*$', re.DOTALL)  # the last one, in front of "," or a bracket
MEMBERS = re.compile(rb'\{[^\[{]*?("(?:[^"\\]|\\.)*")\s*:\s*v$', re.DOTALL)  # of the object that is open


class Outline:
    """What of a JSON text still matters: the open brackets, a letter for each item of an open list, the latest key of
    an open object (keys come in the schema's order), and what is being written. Two texts with the same outline and
    the same next mask may end in the same ways, so one of them is enough."""

    __slots__ = ("in_string", "text")

    def __init__(self, text: bytes = b"", *, in_string: bool = False) -> None:
        self.text, self.in_string = text, in_string

    @property
    def in_value(self) -> bool:
        """Between the brackets of an object or list, but not within a string."""
        return not self.in_string and (b"{" in self.text or b"[" in self.text)

    def after(self, more: bytes) -> Outline:
        text, in_string = self.text, self.in_string
        for at in range(len(more)):
            char = more[at : at + 1]
            if in_string:
                in_string = char != b'"' or text.endswith(b"\\")
            elif char in (b",", b"}", b"]"):
                text = VALUE.sub(b"v", text)
                if char != b",":
                    text, char = text[: max(text.rfind(OPENERS[char]), 0)], b"v"
                else:
                    text = MEMBERS.sub(rb"{\1", text)
            elif char == b'"':
                in_string = True
            text += char
        return Outline(text, in_string=in_string)


@dataclass(order=True, slots=True)
class SearchPlace:
    """How far a search has come: ``path`` leads here, ``mask`` [bits] says what may come next, none at the end."""

    rank: int
    matcher: LLMatcher = field(compare=False)
    path: list[int] = field(compare=False)
    outline: Outline = field(compare=False)
    mask: bytes = field(compare=False)


class EndingSearch:
    """For grammars over one tokenizer; ``end`` is its end token."""

    def __init__(self, tokenizer: LLTokenizer, end: int) -> None:
        self._tokenizer, self.end = tokenizer, end
        ids = {byte: tokenizer.tokenize_bytes(bytes([byte])) for byte in range(256)}
        self._token = {byte: found[0] for byte, found in ids.items() if len(found) == 1}

    def find(self, matcher: LLMatcher, known: Sequence[int] = (), *, masks: int = THOROUGH) -> list[int] | None:
        """Tokens that complete the answer, with the end token where the grammar does not stop by itself. ``known``: an
        ending from an earlier place, whose later part may fit here. ``None`` when none was found. ``matcher`` stays."""
        units = self._in_bytes(known)
        until = time.thread_time() + THOROUGH_SECONDS / 2
        found = self._search(matcher, units, masks, 1, until)
        found = found or self._search(matcher, units, 5 * masks, -1, until + THOROUGH_SECONDS / 2)
        return found and self._packed(matcher, found)

    def _search(self, matcher: LLMatcher, units: list[int], masks: int, order: int, until: float) -> list[int] | None:
        """``order`` 1: the shortest way first. -1: the way that has come furthest; it soon finds some ending."""
        queue = [self._reached(matcher.deep_copy(), [], Outline(), order)]
        seen: set[tuple[bytes, bytes]] = set()
        while queue and masks > 0 and time.thread_time() < until:
            place = heapq.heappop(queue)
            rest = self._rest(place.matcher, units)
            if rest is not None:
                return place.path + rest
            if not place.mask or (place.outline.text, place.mask) in seen:
                continue
            seen.add((place.outline.text, place.mask))
            alike: set[tuple[bytes, tuple[int, ...]]] = set()
            ways = self._ways(place)
            for token in ways if order > 0 else ways[:FEW]:
                child = place.matcher.deep_copy()
                child.consume_token(token)
                masks -= 1
                reached = self._reached(child, [*place.path, token], place.outline, order)
                follows = reached.mask, tuple(reached.path[len(place.path) + 1 :])
                if follows not in alike:
                    alike.add(follows)
                    heapq.heappush(queue, reached)
        return None

    def _reached(self, matcher: LLMatcher, path: list[int], before: Outline, order: int) -> SearchPlace:
        """The place reached after ``path`` and whatever the grammar then forces."""
        last = path[-1:]
        while not matcher.is_stopped():
            forced = matcher.compute_ff_tokens()
            if not forced or not matcher.consume_tokens(forced):
                break
            path, last = path + forced, last + forced
        mask = b"" if matcher.is_stopped() else matcher.compute_bitmask()
        outline = before.after(self._tokenizer.decode_bytes(last))
        return SearchPlace(order * len(path), matcher, path, outline, mask)

    def _in_bytes(self, tokens: Sequence[int]) -> list[int]:
        """The same text, one token per byte; special tokens as they are."""
        out: list[int] = []
        for token in tokens:
            text = b"" if self._tokenizer.is_special_token(token) else self._tokenizer.decode_bytes([token])
            out += [self._token[byte] for byte in text] if text and all(b in self._token for b in text) else [token]
        return [token for token in out if token != self.end]

    def _rest(self, place: LLMatcher, units: list[int]) -> list[int] | None:
        """The tokens that end the answer from ``place``, perhaps with a part of a known ending; ``None`` if none do."""
        if place.is_accepting():
            return [] if place.is_stopped() else [self.end]
        tried = 0
        for at in range(len(units)):
            tail = units[at:]
            if place.validate_tokens(tail) < len(tail):
                continue
            probe = place.deep_copy()
            if probe.consume_tokens(tail) and probe.is_accepting():
                return tail if probe.is_stopped() else [*tail, self.end]
            tried += 1
            if tried == TAILS:
                break
        return None

    def _ways(self, place: SearchPlace) -> list[int]:
        """Single-byte tokens to go on with: quotes and brackets that close do close, and a comma ends a number."""

        def may(byte: int) -> bool:
            token = self._token.get(byte)
            return token is not None and bool(place.mask[token >> 3] >> (token & 7) & 1)

        if all(map(may, FREE)):
            return [self._token[QUOTE if may(QUOTE) else LETTER]]
        ends = (CLOSERS, COMMA) if place.outline.in_value else (CLOSERS,)
        for some in (*ends, TYPED, BLANKS):
            if found := [self._token[byte] for byte in some if may(byte)]:
                return found
        return [self._token[byte] for byte in range(128, 256) if may(byte)][:FEW]  # within a character

    def _packed(self, matcher: LLMatcher, path: list[int]) -> list[int]:
        """The same ending in fewer, longer tokens."""
        packed: list[int] = []
        text = b""
        for token in path:
            if token == self.end or self._tokenizer.is_special_token(token):
                packed += [*self._tokenizer.tokenize_bytes(text), token]
                text = b""
            else:
                text += self._tokenizer.decode_bytes([token])
        packed += self._tokenizer.tokenize_bytes(text)
        probe = matcher.deep_copy()
        whole = probe.consume_tokens(packed) and probe.is_accepting()
        return packed if whole and len(packed) < len(path) else path


class Endable(Protocol):
    """A ``GrammarState`` that can be completed."""

    def first_ending(self) -> list[int] | None: ...

    def ending_after(self, token: int, known: Sequence[int]) -> list[int] | None:
        """An ending from the place after ``token``; the state stays where it is."""


class Ending:
    """One sequence's known ending; ``end`` is the end token."""

    def __init__(self, state: Endable, first: Sequence[int], end: int) -> None:
        self._state, self._known, self._end = state, list(first), end

    def chosen(self, token: int, left: int) -> int:
        """``token``, or the known ending's next one where no ending would fit into ``left`` tokens after it."""
        known = self._known
        if known and token == known[0]:
            self._known = known[1:]
            return token
        found = self._state.ending_after(token, known)
        if found is not None and len(found) <= left:
            self._known = found
            return token
        self._known = known[1:]
        return known[0] if known else self._end
