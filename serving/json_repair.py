"""JSON as models write it, made valid while it streams: what comes out is always the beginning of a JSON text.

Valid JSON passes unchanged, character by character (numbers and words when they end, a comma with what follows it).
What is repaired: raw control characters in strings, single quotes, unknown escapes, Python's words, missing and
trailing commas, missing colons, values and closing brackets. ``close`` completes a text that the model ended too early,
``cut`` gives what is held back of one that was cut off.
"""

from __future__ import annotations

import json
import re

_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null", "NaN": "null", "true": "true",
          "false": "false", "null": "null"}  # fmt: skip
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_SPACE = " \t\r\n"
_ESCAPED = '"\\/bfnrt'
_HEX = "0123456789abcdefABCDEF"


class JsonRepair:
    """One value. ``feed`` its characters until ``done``."""

    def __init__(self) -> None:
        self.done = False
        self._closers: list[str] = []
        # what may come: value; first (an item or key, or the end); item or key (after a comma); colon; next
        self._expect = "value"
        self._pending = ""  # a comma and the blanks after it, until it is known that something follows
        self._quote = self._escape = self._word = ""

    @property
    def in_string(self) -> bool:
        return bool(self._quote)

    @property
    def in_bare_word(self) -> bool:
        """Inside a number or word that no bracket encloses: only its surroundings can tell that it has ended."""
        return bool(self._word) and not self._closers

    def feed(self, char: str) -> str:
        if self._quote:
            return self._in_string(char)
        if self._word:
            if char not in ",:{}[]\"'" and not char.isspace():
                self._word += char
                return ""
            out = self._word_ended()
            return out if self.done else out + self._structure(char)
        return self._structure(char)

    def close(self) -> str:
        """What makes a complete value of everything that was fed."""
        out = ""
        if self._quote:
            self._escape = ""
            out += self._string_ended()
        elif self._word:
            out += self._word_ended()
        elif not self.done and not self._closers:
            out += self._missing()
        while self._closers:
            out += self._missing() + self._pop()
        return out

    def cut(self) -> str:
        """What is held back, as it came."""
        held = self._pending + self._word + self._escape
        self._pending = self._word = self._escape = ""
        return held

    # ---------------------------------------------------------------------------------------------- between strings

    def _structure(self, char: str) -> str:
        if char.isspace():
            blank = char if char in _SPACE else " "
            if not self._pending:
                return blank
            self._pending += blank
            return ""
        if char in "\"'":
            out = self._begin()
            self._quote = char
            return out + '"'
        if char in "{[":
            return self._open(char)
        if char in "}]":
            return self._end(char)
        if char == ",":
            return self._comma()
        if char == ":":
            return self._colon()
        self._word = char
        return ""

    @property
    def _at_key(self) -> bool:
        return bool(self._closers) and self._closers[-1] == "}" and self._expect in ("first", "item", "next")

    def _begin(self) -> str:
        """The comma or colon that goes before a string, word or bracket."""
        before, self._pending = self._pending, ""
        if self._expect == "next":
            self._expect, before = "item", "," + before
        elif self._expect == "colon":
            self._expect, before = "value", ":" + before
        return before

    def _open(self, char: str) -> str:
        if self._at_key:
            return ""  # no bracket can be a key
        out = self._begin()
        self._closers.append("}" if char == "{" else "]")
        self._expect = "first"
        return out + char

    def _end(self, char: str) -> str:
        if char not in self._closers:
            return ""
        out = ""
        while True:
            out += self._missing()
            matched = self._closers[-1] == char
            out += self._pop()
            if matched:
                return out

    def _missing(self) -> str:
        """What a value or pair still lacks. A trailing comma goes, the blanks after it stay."""
        blanks, self._pending = self._pending[1:], ""
        if self._expect in ("colon", "value"):
            out = ":null" if self._expect == "colon" else "null"
            self._value_ended()
            return blanks + out
        return blanks

    def _pop(self) -> str:
        closer = self._closers.pop()
        self._value_ended()
        return closer

    def _comma(self) -> str:
        if not self._closers or self._expect in ("first", "item"):
            return ""  # nothing to separate
        out = "" if self._expect == "next" else self._missing()
        self._pending, self._expect = ",", "item"
        return out

    def _colon(self) -> str:
        if self._expect != "colon":
            return ""
        self._expect = "value"
        return ":"

    def _value_ended(self) -> None:
        self._expect = "next"
        self.done = not self._closers

    def _word_ended(self) -> str:
        word, self._word = self._word, ""
        out, key = self._begin(), self._key_here
        if key:
            self._expect = "colon"
            return out + json.dumps(word, ensure_ascii=False)
        self._value_ended()
        known = _WORDS.get(word) or (word if _NUMBER.fullmatch(word) else None)
        return out + (known or json.dumps(word, ensure_ascii=False))

    @property
    def _key_here(self) -> bool:
        """Whether the string or word after ``_begin`` is a key."""
        return bool(self._closers) and self._closers[-1] == "}" and self._expect in ("first", "item")

    # ------------------------------------------------------------------------------------------------ inside strings

    def _in_string(self, char: str) -> str:
        if self._escape:
            return self._escaped(char)
        if char == "\\":
            self._escape = char
            return ""
        return self._string_ended() if char == self._quote else _plain(char)

    def _escaped(self, char: str) -> str:
        before, self._escape = self._escape, ""
        if before == "\\":
            if char == "u":
                self._escape = "\\u"
                return ""
            if char in _ESCAPED:
                return before + char
            return _plain(char) if char in "'\n" else "\\\\" + _plain(char)
        if char not in _HEX:  # \u without its four digits is a backslash and a u
            return "\\" + before + self._in_string(char)
        self._escape = before + char
        if len(self._escape) < len("\\u0000"):
            return ""
        whole, self._escape = self._escape, ""
        return whole

    def _string_ended(self) -> str:
        self._quote = ""
        if self._key_here:
            self._expect = "colon"
        else:
            self._value_ended()
        return '"'


def _plain(char: str) -> str:
    """A character of a string: what JSON wants escaped is escaped."""
    return json.dumps(char)[1:-1] if char == '"' or char < " " else char


def repaired(text: str) -> str:
    """``text`` up to the end of its first value, as valid JSON."""
    repair, out = JsonRepair(), []
    for char in text:
        out.append(repair.feed(char))
        if repair.done:
            break
    return "".join(out) + repair.close()
