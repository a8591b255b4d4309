"""Incremental parser for Qwen's tool calls. Pure: text in, events out, independent of where the text is split.

Three framings: ``hermes`` (``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` within ordinary text, the format of
the chat template), ``array`` (a JSON list of such objects, which the grammar enforces for ``tool_choice: required``)
and ``named`` (the text is one function's arguments).

Small models write calls badly. A missing or extra bracket, several objects or a list in one tag, a missing closing tag,
no arguments, and whatever ``serving.json_repair`` mends become the calls that were meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from serving.gateway.core.call_object import CallArguments, CallObject, CallStart

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Framing = Literal["hermes", "array", "named"]
_BETWEEN = "}],; \t\r\n"  # what may stand between an object and the next one or the closing tag


@dataclass(frozen=True, slots=True)
class Content:
    text: str


Event = Content | CallStart | CallArguments


class ToolParser:
    """``feed`` all text in order, then call ``finish``. Adjacent events of one kind are merged.

    ``calls``: how many have begun. ``begun``: the prompt ended with this beginning of a call, which the first ``feed``
    reports too."""

    def __init__(self, framing: Framing, name: str = "", begun: str = "") -> None:
        self._framing, self._name = framing, name
        self.calls = 0
        self._arguments: list[str] = []  # of ``named``
        self._rest = ""  # not yet understood: may be the beginning of a tag
        # outside, opening (after the tag), inside (an object), after (the object, before the closing tag)
        self._state = "outside"
        self._space = ""  # whitespace that a following tool call would swallow
        self._lead = ""  # what came before the object: text again if it turns out not to be a call
        self._unclosed = False  # a call has begun whose closing tag has not come
        self._said_after_call = False
        self._object = CallObject(0)
        self._early: list[Event] = []
        if begun:
            self._early = self.feed(begun)

    def feed(self, text: str) -> list[Event]:
        if self._framing == "named":
            return self._named(text)
        self._rest += text
        steps = {"outside": self._outside, "opening": self._opening, "inside": self._inside, "after": self._after}
        if self._framing == "array":
            steps |= {"outside": self._in_array, "after": self._in_array}
        events, self._early = self._early, []
        while self._rest:
            before, state = self._rest, self._state
            events += steps[state]()
            if (self._rest, self._state) == (before, state):
                break  # waits for more
        return _merged(events)

    @property
    def in_call(self) -> bool:
        """Whether the text so far ends within a call."""
        return not is_json("".join(self._arguments)) if self._framing == "named" else self._state == "inside"

    def finish(self, *, cut: bool = False) -> list[Event]:
        """Whatever is still held back, now that no text follows. ``cut``: a length limit or a stop string ended the
        answer, so a call that has begun keeps its incomplete arguments; otherwise it is completed."""
        if self._framing == "named":
            return []
        events: list[Event] = []
        if self._state == "inside":
            events += self._counted(self._object.cut() if cut else self._object.close())
            forced = cut and self._framing == "array"  # a forced call is never text, even cut off before its name
            if not (self._object.started or forced):
                events += self._text(self._lead + "".join(self._object.raw))
        elif self._state == "opening":
            events += self._text(self._lead + self._rest)
        elif not any(tag.startswith(self._rest) for tag in self._tags_cut(cut)):
            events += self._text(self._rest)
        if self._space and not self.calls:
            events.append(Content(self._space))
        self._rest = self._space = ""
        return _merged(events)

    def _tags_cut(self, cut: bool) -> list[str]:
        """The tags whose beginning, at the end of the answer, belongs to a call and not to the text."""
        return [CLOSE] * self._unclosed + [OPEN] * (cut and self.calls > 0)

    def _named(self, text: str) -> list[Event]:
        start: list[Event] = [] if self.calls else [CallStart(0, self._name)]
        self.calls = 1
        self._arguments.append(text)
        return [*start, CallArguments(0, text)] if text else start

    def _outside(self) -> list[Event]:
        tags = (OPEN, CLOSE) if self._unclosed else (OPEN,)
        found = [(at, tag) for tag in tags if (at := self._rest.find(tag)) >= 0]
        if not found:
            keep = max(_overlap(self._rest, tag) for tag in tags)
            text, self._rest = self._rest[: len(self._rest) - keep], self._rest[len(self._rest) - keep :]
            return self._text(text)
        at, tag = min(found)
        events = self._text(self._rest[:at])
        self._rest = self._rest[at + len(tag) :]
        if tag == OPEN:
            self._lead, self._space = self._space + OPEN, ""
            self._state = "opening"
        self._unclosed = False
        return events

    def _opening(self) -> list[Event]:
        """Between the tag and the object's bracket; a list of objects counts as its objects."""
        stripped = self._rest.lstrip()
        if not stripped:
            return []
        self._lead += self._rest[: len(self._rest) - len(stripped)]
        if stripped[0] == "{":
            self._begin(stripped[1:])
        elif stripped[0] == "[" and not self._lead.endswith("["):
            self._lead, self._rest = self._lead + "[", stripped[1:]
        else:
            self._state, self._rest = "outside", stripped
            return self._text(self._lead)
        return []

    def _begin(self, rest: str) -> None:
        self._object, self._rest, self._state = CallObject(self.calls), rest, "inside"

    def _inside(self) -> list[Event]:
        events: list[Event] = []
        for at, char in enumerate(self._rest):
            if char == "<" and self._framing == "hermes" and not self._object.in_string:
                self._rest = self._rest[at:]  # outside a string only a tag begins like this: brackets are missing
                events += self._counted(self._object.close())
                return events + self._object_closed()
            events += self._counted(self._object.feed(char))
            if self._object.closed:
                self._rest = self._rest[at + 1 :]
                return events + self._object_closed()
        self._rest = ""
        return events

    def _counted(self, events: list[CallStart | CallArguments]) -> list[Event]:
        self.calls += sum(isinstance(event, CallStart) for event in events)
        return list(events)

    def _object_closed(self) -> list[Event]:
        if self._object.started:
            self._state, self._unclosed, self._space = "after", True, ""
            return []
        self._state, self._unclosed = "outside", False
        return self._text(self._lead + "".join(self._object.raw))  # JSON, but not a call

    def _after(self) -> list[Event]:
        self._rest = self._rest.lstrip(_BETWEEN)
        if self._rest.startswith("{"):
            self._lead = ""
            self._begin(self._rest[1:])
        elif self._rest and not CLOSE.startswith(self._rest):
            self._state = "outside"  # which also finds the closing tag
        return []

    def _in_array(self) -> list[Event]:
        char, self._rest = self._rest[0], self._rest[1:]
        if char == "{":
            self._lead = ""
            self._begin(self._rest)
        elif char not in "[], \t\r\n":  # no grammar was enforced
            return self._text(char)
        return []

    def _text(self, text: str) -> list[Event]:
        """Ordinary text without the whitespace around tool calls."""
        text = self._space + text
        if self.calls and not self._said_after_call:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        self._said_after_call |= bool(kept and self.calls)
        return [Content(kept)] if kept else []


def is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def open_call(text: str) -> str:
    """The beginning of a call with which ``text`` ends; "" for none."""
    _, tag, begun = text.rpartition(OPEN)
    return tag + begun if tag and CLOSE not in begun and begun.lstrip()[:1] in ("", "{", "[") else ""


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of ``text`` that begins ``tag``."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-size:])), 0)


def _merged(events: list[Event]) -> list[Event]:
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Content) and isinstance(last, Content):
            out[-1] = Content(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            out[-1] = CallArguments(event.index, last.text + event.text)
        else:
            out.append(event)
    return out
