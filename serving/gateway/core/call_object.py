"""Reads and repairs one tool call as a model writes it: ``{"name": …, "arguments": …}``. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from serving.json_repair import JsonRepair, repaired


@dataclass(frozen=True, slots=True)
class CallStart:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of the arguments' JSON text."""

    index: int
    text: str


CallEvent = CallStart | CallArguments
_ARGUMENTS = ("arguments", "parameters")


class CallObject:
    """Starts after the object's ``{``. ``started``: the name is known; ``closed``: the object has ended."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.raw = ["{"]
        self.started = self.closed = False
        self._stage = "key"  # key, colon or value: what comes next at the object's own level
        self._key = ""
        self._value: JsonRepair | None = None  # the key or value being read
        self._text: list[str] = []  # of it
        self._is_arguments = False
        self._streams = False  # the arguments are an object or list: passed on as it comes
        self._seen_arguments = False
        self._held: list[str] = []  # arguments before the name

    @property
    def in_string(self) -> bool:
        return self._value is not None and self._value.in_string

    def feed(self, char: str) -> list[CallEvent]:
        self.raw.append(char)
        if self._value is None:
            return self._structure(char)
        if self._value.in_bare_word and (char in ",:}]" or char.isspace()):
            return self._part_ended(self._value.close()) + self._structure(char)
        out = self._value.feed(char)
        return self._part_ended(out) if self._value.done else self._part(out)

    def close(self) -> list[CallEvent]:
        """The model ended the call without the object's last brackets."""
        events = self._part_ended(self._value.close()) if self._value else []
        return events + self._finished()

    def cut(self) -> list[CallEvent]:
        """The answer was cut off: the rest of the arguments as far as they came, without completing them."""
        return self._part(self._value.cut()) if self._value and self._streams else []

    def _structure(self, char: str) -> list[CallEvent]:
        if char.isspace():
            return []
        if char == "}":
            return self._finished()
        if char == ",":
            self._stage = "key"
        elif self._stage == "colon" and char == ":":
            self._stage = "value"
        elif self._stage == "key" and char in "{[]:":
            pass  # no key begins like this
        else:
            return self._begin(char)
        return []

    def _begin(self, char: str) -> list[CallEvent]:
        if self._stage == "colon":  # the colon is missing
            self._stage = "value"
        self._value, self._text = JsonRepair(), []
        self._is_arguments = self._stage == "value" and self._key in _ARGUMENTS and not self._seen_arguments
        self._streams = self._is_arguments and char in "{["
        self._seen_arguments |= self._is_arguments
        return self._part(self._value.feed(char))

    def _part(self, text: str) -> list[CallEvent]:
        if not self._streams:
            self._text.append(text)
            return []
        return self._arguments(text)

    def _part_ended(self, text: str) -> list[CallEvent]:
        events = self._part(text)
        self._value = None
        if self._stage == "key":
            self._key, self._stage = _string("".join(self._text)), "colon"
            return events
        self._stage = "key"
        if self._streams:
            return events
        whole = "".join(self._text)
        if self._key == "name" and not self.started and (name := _string(whole)):
            self.started = True
            held, self._held = "".join(self._held), []
            return [CallStart(self.index, name), *self._arguments(held)]
        return self._arguments(_as_arguments(whole)) if self._is_arguments else []

    def _arguments(self, text: str) -> list[CallEvent]:
        if not self.started:
            self._held.append(text)
            return []
        return [CallArguments(self.index, text)] if text else []

    def _finished(self) -> list[CallEvent]:
        self.closed = True
        return self._arguments("{}") if self.started and not self._seen_arguments else []


def _string(text: str) -> str:
    """A JSON string's value; ``""`` for anything else."""
    value = json.loads(text)
    return value if isinstance(value, str) else ""


def _as_arguments(text: str) -> str:
    """Arguments that are no object: nothing means ``{}``, a string holds the arguments' JSON."""
    value = json.loads(text)
    if value is None or value == "":
        return "{}"
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return repaired(value.strip())
    return text
