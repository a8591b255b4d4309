"""What is adjusted before a schema is enforced: unknown formats go, objects are closed where nothing is combined."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.json_schema import prepared


def of(schema: Any) -> Any:
    return json.loads(prepared(json.dumps(schema)))


def text(**more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string"}}} | more


CLOSED = {"additionalProperties": False}


@pytest.mark.parametrize(
    "name", ["color", "url", "path", "binary", "int64", "double", "password", "regex", "iri", 5, None]
)
def test_a_format_that_no_grammar_knows_is_an_annotation(name: Any) -> None:
    assert of({"type": "string", "format": name}) == {"type": "string"}


@pytest.mark.parametrize("name", ["date-time", "email", "uuid", "uri", "ipv4"])
def test_known_formats_stay(name: str) -> None:
    schema = f'{{"type":   "string", "format": "{name}"}}'
    assert prepared(schema) == schema, "unchanged to the letter"


def test_a_property_may_be_called_format() -> None:
    schema = {"type": "object", "properties": {"format": {"type": "string", "format": "color"}}}
    assert of(schema)["properties"] == {"format": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (text(), text(**CLOSED)),
        (text(additionalProperties=True), text(additionalProperties=True)),
        (text(additionalProperties={"type": "integer"}), text(additionalProperties={"type": "integer"})),
        (text(required=["b"]), text(**CLOSED, required=["b"], properties={"a": {"type": "string"}, "b": {}})),
        ({"type": "object"}, {"type": "object"}),
        ({"anyOf": [text(), {"type": "null"}]}, {"anyOf": [text(**CLOSED), {"type": "null"}]}),
        ({"type": "array", "items": text()}, {"type": "array", "items": text(**CLOSED)}),
        ({"allOf": [text()]}, {"allOf": [text(**CLOSED)]}),
        ({"allOf": [text(), text()]}, {"allOf": [text(), text()]}),
        (text(anyOf=[{"properties": {"b": {}}}]), text(anyOf=[{"properties": {"b": {}}}])),
        ({"$ref": "#/$defs/A", "$defs": {"A": text()}}, {"$ref": "#/$defs/A", "$defs": {"A": text(**CLOSED)}}),
        ({"allOf": [{"$ref": "#/$defs/A"}, text()], "$defs": {"A": text()}},
         {"allOf": [{"$ref": "#/$defs/A"}, text()], "$defs": {"A": text()}}),
        ({"not": text()}, {"not": text()}),
    ],
)  # fmt: skip
def test_objects_are_closed_unless_they_are_combined(schema: Any, expected: Any) -> None:
    assert of(schema) == expected


def test_an_answer_keeps_the_order_of_the_properties() -> None:
    """``dict ==`` does not see it, and a grammar follows it."""
    schema = {"properties": {"why": {}, "answer": {}}, "required": ["new", "answer"]}
    assert list(of(schema)["properties"]) == ["why", "answer", "new"]


@pytest.mark.parametrize(
    "broken", ["{", "5", "true", '"x"', "[" * 100_000, '{"properties": 5, "allOf": {}, "anyOf": 3}']
)
def test_what_is_no_schema_stays_as_it_is(broken: str) -> None:
    assert prepared(broken) == broken
