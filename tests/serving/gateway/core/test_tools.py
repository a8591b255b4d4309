"""The tool-call parser: the same calls and the same text, whatever way the model's output was cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway.core.call_object import CallArguments, CallStart
from serving.gateway.core.tools import Content, Framing, ToolParser, open_call

Read = tuple[str, list[tuple[str, str]]]


def read(pieces: list[str], framing: Framing = "hermes", name: str = "", *, cut: bool = False) -> Read:
    """All text, and (name, arguments) of every call."""
    parser, text, calls = ToolParser(framing, name), "", []
    for event in [e for piece in pieces for e in parser.feed(piece)] + parser.finish(cut=cut):
        if isinstance(event, Content):
            text += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            calls[-1][1] += event.text
    assert parser.calls == len(calls), "the finish reason is decided by this"
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
    ("a  <tool_call> b", ("a  <tool_call> b", [])),
    ("say\n<tool_call>\n</tool_call> \nto call", ("say\n<tool_call>\n</tool_call> \nto call", [])),
    ('<tool_call>{"na', ('<tool_call>{"na', [])),
    (call("f", {}) + "\nDone. \n", ("Done.", [("f", "{}")])),
]  # fmt: skip


A, B = ("a", '{"x": 1}'), ("b", '{"y": 2}')
CALL_A, CALL_B = '{"name": "a", "arguments": {"x": 1}}', '{"name": "b", "arguments": {"y": 2}}'
TAGGED_B = f"<tool_call>{CALL_B}</tool_call>"
REPAIRED: list[tuple[str, Read]] = [
    (f"<tool_call>{CALL_A[:-1]}</tool_call>{TAGGED_B}", ("", [A, B])),
    (f"<tool_call>\n{CALL_A[:-1]}\n{TAGGED_B}", ("", [A, B])),
    (f"<tool_call>{CALL_A[:-2]}</tool_call> done", ("done", [A])),
    (f"<tool_call>{CALL_A}}}</tool_call>", ("", [A])),
    (f"<tool_call>{CALL_A}}}}}\n</tool_call>\n<tool_call>{CALL_B}}}", ("", [A, B])),
    (f"<tool_call>{CALL_A}\n{CALL_B}</tool_call>", ("", [A, B])),
    (f"<tool_call>[{CALL_A}, {CALL_B}]</tool_call>", ("", [A, B])),
    (f"<tool_call>{CALL_A}<tool_call>{CALL_B}", ("", [A, B])),
    (f"<tool_call>{CALL_A} and</tool_call> more", ("and more", [A])),
    *[(f'<tool_call>{{"name": "f"{written}}}</tool_call>', ("", [("f", "{}")]))
      for written in ("", ', "arguments": null', ', "arguments": ""', ', "arguments": ', ', "arguments": None, "i": 1')
    ],
    ('<tool_call>{"arguments": null, "name": "f"}</tool_call>', ("", [("f", "{}")])),
    ('<tool_call>{"name": "f", "arguments": {"q": "2\nlines\t"}}</tool_call>', ("", [("f", '{"q": "2\\nlines\\t"}')])),
    ("<tool_call>{'name': 'f', 'arguments': {'q': 'it\\'s \"x\"', 'b': True, 'n': None,}}</tool_call>",
     ("", [("f", '{"q": "it\'s \\"x\\"", "b": true, "n": null}')])),
    ('<tool_call>{"name": "f", "arguments": {"p": "C:\\work"}}</tool_call>', ("", [("f", '{"p": "C:\\\\work"}')])),
    ('<tool_call>{"name": "f", "arguments": {"x": 1 "y": [1 2]}}</tool_call>', ("", [("f", '{"x": 1 ,"y": [1 ,2]}')])),
    ('<tool_call>{"name": "f", "arguments": {"x" 1, y: yes}}</tool_call>', ("", [("f", '{"x" :1, "y": "yes"}')])),
    ('<tool_call>{"name": "f", "arguments": [1, 2]}</tool_call>', ("", [("f", "[1, 2]")])),
    ('<tool_call>{"id": {"name": "no"}, "name": "f", "arguments": {}}</tool_call>', ("", [("f", "{}")])),
    ('<tool_call>{"name": "f", "arguments": {"open": "', ("", [("f", '{"open": ""}')])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES + REPAIRED)
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
    assert parser.feed('<tool_call>\n{"name": "f", "arguments": {"a": ["x') == [
        CallStart(0, "f"),
        CallArguments(0, '{"a": ["x'),
    ]


@pytest.mark.parametrize("came", ['{"cut', '{"a": 12', '{"a": 1, ', '{"a": "\\u00', "[tr", '{"a":', "{"])
def test_an_answer_cut_at_its_limit_gives_the_arguments_that_came(came: str) -> None:
    text = '<tool_call>{"name": "f", "arguments": ' + came
    assert read([text], cut=True) == ("", [("f", came)]) == read(list(text), cut=True)
    ((_, whole),) = read([text])[1]
    json.loads(whole)  # the same text, ended by the model itself, is completed


@pytest.mark.parametrize("came", ["{", '{"na', '{"name": "', '{"name": "g'])
def test_a_forced_call_that_is_cut_before_its_name_is_no_text(came: str) -> None:
    """Grammar wrote it, not the model: a client would show its user half an object."""
    text = '[{"name": "f", "arguments": {}}, ' + came
    assert read([text], "array", cut=True) == ("", [("f", "{}")]) == read(list(text), "array", cut=True)


NOISE = st.lists(
    st.sampled_from(['{"name": "f", "arguments": ', '{"a": 1}', "<tool_call>", "</tool_call>", *'{}[],:"\'\\\n <é',
                     "name", "1.5", "true"]), max_size=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(NOISE)
def test_arguments_are_json_whatever_the_model_writes(parts: list[str]) -> None:
    text = "<tool_call>" + "".join(parts)
    found = read([text])
    assert found == read(list(text)) == read((parts and ["<tool_call>", *parts]) or [text])
    for _, arguments in found[1]:
        json.loads(arguments)


@pytest.mark.parametrize("size", range(len(call("f", {"x": 1}))))
def test_a_call_that_the_prompt_has_begun_is_told_whole(size: int) -> None:
    whole = call("f", {"x": 1})
    begun, rest = open_call("So: " + whole[:size]), whole[size:]
    parser = ToolParser("hermes", begun=begun)
    events = [*parser.feed(rest[:1]), *parser.feed(rest[1:]), *parser.finish()]
    if size < len("<tool_call>"):
        assert begun == ""
        return
    assert isinstance(events[0], CallStart) and events[0].name == "f" and parser.calls == 1
    assert "".join(e.text for e in events if isinstance(e, CallArguments)) == '{"x": 1}'
    assert not any(isinstance(e, Content) for e in events)


def test_a_further_call_that_is_cut_within_its_tag_leaves_no_text() -> None:
    said = call("f", {}) + "\n<tool_ca"
    assert read([said], cut=True) == ("", [("f", "{}")])
    assert read(["<tool_ca"], cut=True) == ("<tool_ca", [])
