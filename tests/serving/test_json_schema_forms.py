"""Rewritten keywords mean what they meant: every value is as valid as before, judged by ``jsonschema``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serving.json_schema_forms import known_forms

NAMES = ("a", "b", "c")
OBJECTS = [dict.fromkeys(names, 1) for size in range(4) for names in itertools.combinations(NAMES, size)]
VALUES: list[Any] = [*OBJECTS, None, True, 3, "x", [], [1, 1], [1, 2], [1, 2, 3]]


def asks(*names: str, **more: Any) -> dict[str, Any]:
    return {"required": list(names), **more}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "oneOf": [asks("a"), asks("b")]},
        {"type": "object", "oneOf": [asks("a"), asks("b"), asks("c")]},
        {"type": "object", "oneOf": [asks("a", "b"), asks("b", "c")]},
        {"type": "object", "oneOf": [asks("a", "b"), asks("c"), asks("b", "c")]},
        {"type": "object", "oneOf": [asks("a"), asks("a", "b")]},
        {"type": "object", "oneOf": [asks("a", title="A"), asks("b", description="B")], "required": ["c"]},
        {"oneOf": [asks("a", type="object"), asks("b", type="object")]},
    ],
)
def test_exactly_one_of_some_names_needs_no_one_of(schema: dict[str, Any]) -> None:
    known = known_forms(schema)
    assert "oneOf" not in known and "anyOf" in known
    before, after = Draft202012Validator(schema), Draft202012Validator(known)
    assert [before.is_valid(value) for value in VALUES] == [after.is_valid(value) for value in VALUES]


@pytest.mark.parametrize(
    ("branches", "values"),
    [
        ([{"const": "x", "title": "X"}, {"const": 3}, {"const": None}], ["x", 3, None]),
        ([{"enum": ["x", 3, 3]}, {"enum": [3.0, True]}], ["x", True]),
        ([{"enum": [1, {"a": 1}]}, {"const": True}], [1, {"a": 1}, True]),
    ],
)
def test_exactly_one_of_some_lists_is_a_list(branches: list[Any], values: list[Any]) -> None:
    known = known_forms({"oneOf": branches, "title": "t"})
    assert repr(known) == repr({"enum": values, "title": "t"})
    before, after = Draft202012Validator({"oneOf": branches}), Draft202012Validator(known)
    assert [before.is_valid(value) for value in VALUES] == [after.is_valid(value) for value in VALUES]


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [asks("a"), asks("b")]},  # a number fits both
        {"type": "object", "oneOf": [asks("a"), {"properties": {"b": {"type": "integer"}}}]},
        {"type": "object", "oneOf": [asks("a"), asks("b")], "anyOf": [asks("c")]},
        {"type": "object", "oneOf": [asks(f"a{n}", f"b{n}", f"c{n}") for n in range(8)]},  # too many ways to fail
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"type": "object", "oneOf": [asks("a"), asks("a")]},  # nothing fits
        {"oneOf": 5},
    ],
)
def test_any_other_one_of_is_the_engines(schema: dict[str, Any]) -> None:
    assert known_forms(schema) == schema


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"uniqueItems": False}, {}),
        ({"uniqueItems": True, "maxItems": 1}, {"maxItems": 1}),
        ({"uniqueItems": True}, {"uniqueItems": True}),
        ({"not": False}, {}),
        ({"not": {}}, {"not": {}}),  # forbids everything
        ({"if": {"type": "string"}}, {}),
        ({"then": {}, "else": {}}, {}),
        ({"if": {}, "then": {"type": "string"}}, {"if": {}, "then": {"type": "string"}}),
        ({"minContains": 1, "maxContains": 2}, {}),
        ({"dependentRequired": {}, "dependentSchemas": {}, "propertyNames": {}, "unevaluatedProperties": True}, {}),
        ({"unevaluatedProperties": False}, {"unevaluatedProperties": False}),
    ],
)
def test_what_changes_nothing_is_left_out(keywords: dict[str, Any], expected: dict[str, Any]) -> None:
    known = known_forms(keywords)
    assert known == expected
    before, after = Draft202012Validator(keywords), Draft202012Validator(known)
    assert [before.is_valid(value) for value in VALUES] == [after.is_valid(value) for value in VALUES]


def test_a_count_is_an_integer_however_it_is_written() -> None:
    known = known_forms({"minItems": 2.0, "maxItems": 3, "minimum": 2.0, "maxLength": 2.5})
    assert [repr(value) for value in known.values()] == ["2", "3", "2.0", "2.5"]
