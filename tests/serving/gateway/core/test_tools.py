"""The tool-call parser: the same calls and the same text, whatever way the model's output was cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway.core.tools import CallArguments, CallStart, Content, Framing, ToolParser

Read = tuple[str, list[tuple[str, str]]]


def read(pieces: list[str], framing: Framing = "hermes", name: str = "") -> Read:
    """All text, and (name, arguments) of every call."""
    parser, text, calls = ToolParser(framing, name), "", []
    for event in [e for piece in pieces for e in parser.feed(piece)] + parser.finish():
        if isinstance(event, Content):
            text += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            calls[-1][1] += event.text
    return text, [(n, a) for n, a in calls]


def call(name: str, arguments: Any, indent: int | None = None) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, indent=indent)}\n</tool_call>"


CASES: list[tuple[str, Read]] = [
    ("just text", ("just text", [])),
    (" text with spaces \n", (" text with spaces \n", [])),
    (call("f", {"a": 1}), ("", [("f", '{"a": 1}')])),
    ("Let me see.\n" + call("f", {}), ("Let me see.", [("f", "{}")])),
    (call("f", {"a": [1, {"b": "}"}]}) + "\n" + call("g", {"q": "\"x\\"}),
     ("", [("f", '{"a": [1, {"b": "}"}]}'), ("g", '{"q": "\\"x\\\\"}')])),
    ('<tool_call>{"arguments": {"x": 1} , "name": "late"}</tool_call>', ("", [("late", '{"x": 1}')])),
    ('<tool_call>{"name":"f","parameters":{"x":"</tool_call>"}}</tool_call>', ("", [("f", '{"x":"</tool_call>"}')])),
    ('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', ("", [("f", '{"x": 1}')])),
    (call("f", {"city": "北京"}, indent=2), ("", [("f", '{\n    "city": "\\u5317\\u4eac"\n  }')])),
    ('<tool_call>{"no": "call"}</tool_call>', ('<tool_call>{"no": "call"}</tool_call>', [])),
    ("<tool_call> not json", ("<tool_call> not json", [])),
    ("a <tool_cal", ("a <tool_cal", [])),
    ("1 < 2 and <tool> </tool_call>", ("1 < 2 and <tool> </tool_call>", [])),
    ('<tool_call>{"name": "f", "arguments": {"cut', ("", [("f", '{"cut')])),
    ('<tool_call>{"na', ('<tool_call>{"na', [])),
    (call("f", {}) + "\nDone. \n", ("Done.", [("f", "{}")])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_whole_and_at_every_cut(text: str, expected: Read) -> None:
    assert read([text]) == expected
    assert read(list(text)) == expected, "character by character"
    for at in range(len(text) + 1):
        assert read([text[:at], text[at:]]) == expected, (text[:at], text[at:])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    max_leaves=6,
)
PROSE = st.text(alphabet='ab <>/tool_call{}"\n世', max_size=20).filter(lambda t: "<tool_call>" not in t)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.text("abc_", min_size=1), st.dictionaries(st.text(), VALUES, max_size=3)), max_size=3),
    PROSE, st.randoms(use_true_random=False), st.booleans(),
)  # fmt: skip
def test_any_calls_at_any_cut(
    calls: list[tuple[str, dict[str, Any]]], prose: str, random: Any, ascii_only: bool
) -> None:
    blocks = [json.dumps({"name": n, "arguments": a}, ensure_ascii=ascii_only) for n, a in calls]
    text = prose + "".join(f"\n<tool_call>\n{block}\n</tool_call>" for block in blocks)
    cuts = sorted(random.randrange(len(text) + 1) for _ in range(random.randrange(8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    content, found = read(pieces)
    assert (content, found) == read([text]), "cutting must not matter"
    if "<tool_call" not in prose:
        assert [(n, json.loads(a)) for n, a in found] == calls
        assert content == (prose.rstrip() if calls else prose)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_the_array_of_a_required_choice(size: int) -> None:
    text = ' [{"name": "f", "arguments": {"a": "]"}}, {"name": "g", "parameters": {}}] '
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert read(pieces, "array") == ("", [("f", '{"a": "]"}'), ("g", "{}")])


def test_a_named_choice_is_all_arguments() -> None:
    assert read(['{"a"', ": 1}"], "named", "f") == ("", [("f", '{"a": 1}')])


def test_arguments_are_passed_on_before_they_end() -> None:
    parser = ToolParser("hermes")
    assert parser.feed('<tool_call>\n{"name": "f", "arguments": {"a": [1') == [
        CallStart(0, "f"),
        CallArguments(0, '{"a": [1'),
    ]
