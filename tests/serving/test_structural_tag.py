"""Both notations of structural tags become one tree, with schemas as they are enforced."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.structural_tag import dumped, parsed, tag

SCHEMA = {"type": "object", "properties": {"c": {"type": "string", "format": "color"}}}
CLOSED = {"type": "object", "properties": {"c": {"type": "string"}}, "additionalProperties": False}


def test_the_older_notation_is_the_newer_ones_triggered_tags() -> None:
    older = {"structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}
    tags = [tag("<f>", {"type": "json_schema", "json_schema": CLOSED}, "</f>")]
    expected = {"type": "triggered_tags", "triggers": ["<f"], "tags": tags}
    assert parsed(json.dumps(older)) == parsed(json.dumps(older | {"type": "structural_tag"})) == expected
    assert parsed(dumped(expected)) == expected


def test_schemas_are_prepared_wherever_they_stand() -> None:
    schema = {"type": "json_schema", "json_schema": SCHEMA}
    tree = {"type": "or", "elements": [schema, {"type": "sequence", "elements": [tag("a", schema, "b")]}]}
    found = parsed(dumped(tree))["elements"]
    assert found[0]["json_schema"] == found[1]["elements"][0]["content"]["json_schema"] == CLOSED


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[]", "is an object"), ("{}", "neither format nor structures"), ('{"format": "a"}', "neither"),
        ('{"structures": [1], "triggers": []}', "begin, schema and end"), ("{", "Expecting"),
        ('{"structures": [{"begin": "a"}]}', "begin, schema and end"), ("[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_no_structural_tag_is_told(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parsed(given)
