"""Incremental parser for Qwen's tool calls. Pure: text in, events out, independent of where the text is split.

Three framings: ``hermes`` (``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` within ordinary text, the format of
the chat template), ``array`` (a JSON list of such objects, which the grammar enforces for ``tool_choice: required``)
and ``named`` (the text is one function's arguments).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Framing = Literal["hermes", "array", "named"]


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of the arguments' JSON text."""

    index: int
    text: str


Event = Content | CallStart | CallArguments


class _Object:
    """One ``{"name": …, "arguments": …}``, a character at a time, starting after its ``{``."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.raw = ["{"]
        self.started = self.closed = False
        self._depth, self._in_string, self._escaped = 1, False, False
        self._key, self._reading_key = "", True
        self._token: list[str] = []  # the key, or a value that must be complete before it is used
        self._held: list[str] = []  # arguments before the name, or whitespace that may be trailing

    def feed(self, char: str) -> list[Event]:
        self.raw.append(char)
        ends = not self._in_string and self._depth == 1 and char in ",}"
        if not self._in_string and self._depth == 1 and char == ":" and self._reading_key:
            self._key, self._reading_key, self._token = _string("".join(self._token)), False, []
            return []
        self._track(char)
        if ends:
            events = self._value_ended()
            self._reading_key, self._token, self.closed = True, [], char == "}"
            return events + (self._finished() if self.closed else [])
        return self._value_char(char)

    def _track(self, char: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1

    @property
    def _is_arguments(self) -> bool:
        return not self._reading_key and self._key in ("arguments", "parameters")

    def _value_char(self, char: str) -> list[Event]:
        if not self._token and char.isspace():
            return []  # before the value
        self._token.append(char)
        if not self._is_arguments or self._token[0] == '"':
            return []  # must be complete first: the name, or arguments given as a JSON string
        self._held.append(char)
        if not self.started or (char.isspace() and not self._in_string and self._depth == 1):
            return []
        return self._flush()

    def _flush(self) -> list[Event]:
        text, self._held = "".join(self._held), []
        return [CallArguments(self.index, text)] if text else []

    def _value_ended(self) -> list[Event]:
        if self._reading_key:
            return []
        text = "".join(self._token).strip()
        if self._is_arguments:
            self._held = list("".join(self._held).rstrip())
            if text.startswith('"'):
                self._held = list(_string(text))
        elif self._key == "name" and not self.started and (name := _string(text)):
            self.started = True
            return [CallStart(self.index, name), *self._flush()]
        return self._flush() if self.started else []

    def _finished(self) -> list[Event]:
        return self._flush() if self.started else []


def _string(text: str) -> str:
    """A JSON string's value; ``""`` for anything else."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


class ToolParser:
    """``feed`` all text in order, then call ``finish``. Adjacent events of one kind are merged."""

    def __init__(self, framing: Framing, name: str = "") -> None:
        self._framing, self._name = framing, name
        self.calls = 0
        self._rest = ""  # may be the beginning of a tag
        self._space = ""  # whitespace that a following tool call would swallow
        self._opening = False  # after OPEN, before {
        self._object: _Object | None = None

    def feed(self, text: str) -> list[Event]:
        if self._framing == "named":
            return self._named(text)
        return _merged(self._hermes(text) if self._framing == "hermes" else self._array(text))

    def finish(self) -> list[Event]:
        """Whatever is still held back, now that no text follows."""
        if self._framing == "named":
            return []
        events: list[Event] = []
        if self._object and not self._object.started:
            events.append(Content(self._lead() + "".join(self._object.raw)))
        elif self._opening:
            events.append(Content(OPEN + self._rest))
        elif self._object is None:
            events += self._text(self._rest)
            if self._space and not self.calls:
                events.append(Content(self._space))
        return _merged(events)

    def _lead(self) -> str:
        return OPEN if self._framing == "hermes" else ""

    def _named(self, text: str) -> list[Event]:
        start: list[Event] = [] if self.calls else [CallStart(0, self._name)]
        self.calls = 1
        return [*start, CallArguments(0, text)] if text else start

    def _hermes(self, text: str) -> list[Event]:
        events: list[Event] = []
        self._rest += text
        while self._rest:
            before = self._rest
            if self._object:
                events += self._inside()
            elif self._opening:
                events += self._at_opening()
            else:
                events += self._outside()
            if self._rest == before and not self._object:
                break  # waits for more
        return events

    def _inside(self) -> list[Event]:
        assert self._object is not None
        events: list[Event] = []
        for at, char in enumerate(self._rest):
            events += self._object.feed(char)
            if self._object.closed:
                self._rest = self._rest[at + 1 :]
                return events + self._object_closed()
        self._rest = ""
        return events

    def _object_closed(self) -> list[Event]:
        closed, self._object = self._object, None
        assert closed is not None
        if closed.started:
            self.calls += 1
            return []
        return self._text(self._lead() + "".join(closed.raw))  # JSON, but not a call

    def _at_opening(self) -> list[Event]:
        stripped = self._rest.lstrip()
        if not stripped:
            return []
        self._opening = False
        if stripped[0] == "{":
            self._object, self._rest = _Object(self.calls), stripped[1:]
            return []
        text, self._rest = OPEN + self._rest[: len(self._rest) - len(stripped)], stripped
        return self._text(text)

    def _outside(self) -> list[Event]:
        tags = (OPEN, CLOSE) if self.calls else (OPEN,)
        found = [(at, tag) for tag in tags if (at := self._rest.find(tag)) >= 0]
        if found:
            at, tag = min(found)
            events = self._text(self._rest[:at])
            self._rest = self._rest[at + len(tag) :]
            self._space = ""
            self._opening = tag == OPEN
            return events
        keep = max(_overlap(self._rest, tag) for tag in tags)
        text, self._rest = self._rest[: len(self._rest) - keep], self._rest[len(self._rest) - keep :]
        return self._text(text)

    def _text(self, text: str) -> list[Event]:
        """Ordinary text without the whitespace around tool calls."""
        text = self._space + text
        if self.calls:
            text = text.lstrip() if not self._said_after_call else text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept and self.calls:
            self._said_after_call = True
        return [Content(kept)] if kept else []

    _said_after_call = False

    def _array(self, text: str) -> list[Event]:
        events: list[Event] = []
        self._rest += text
        while self._rest:
            if self._object:
                events += self._inside()
                continue
            char, self._rest = self._rest[0], self._rest[1:]
            if char == "{":
                self._object = _Object(self.calls)
            elif char not in "[], \t\r\n":  # no grammar was enforced
                events += self._text(char)
        return events


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
