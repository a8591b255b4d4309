"""Where ``oneOf`` becomes ``anyOf`` the two mean the same, judged by ``jsonschema``; elsewhere it stays."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from serving.json_schema_exclusive import plain_unions


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Cat(BaseModel):
    kind: Literal["cat", "kitten"]
    lives: int


class Owner(BaseModel):
    pet: Dog | Cat = Field(discriminator="kind")
    others: list[Dog | Cat]


def kind(name: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": {"const": name}, **more}, "required": ["k", *more]}


NEEDS_A = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
NEEDS_B = {"type": "object", "properties": {"b": {}}, "required": ["b"]}
REFERRED = {"$defs": {"A": kind("a"), "B": kind("b"), "AB": {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}}}
EXCLUSIVE: list[dict[str, Any]] = [
    {"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}, {"type": "array"}]},
    {"oneOf": [{"const": 1}, {"const": True}, {"enum": ["1", None]}]},
    {"oneOf": [kind("a"), kind("b"), kind(3)]},
    {"type": "object", "oneOf": [{"properties": {"k": {"const": v}}, "required": ["k"]} for v in "ab"]},
    {"oneOf": [NEEDS_A, NEEDS_B]},
    {"oneOf": [{"allOf": [kind("a")]}, {"anyOf": [kind("b"), {"type": "null"}]}]},
    REFERRED | {"oneOf": [{"$ref": "#/$defs/AB"}, kind("c")]},
    REFERRED | {"type": "array", "items": {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}},
    {"oneOf": [{"type": "string"}]},
]
UNKNOWN: list[dict[str, Any]] = [
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"oneOf": [{"const": 1}, {"const": 1.0}]},
    {"oneOf": [kind("a"), {"type": "object"}]},
    {"oneOf": [{"properties": {"k": {"const": v}}, "required": ["k"]} for v in "ab"]},  # any number fits both
    {"oneOf": [{"properties": {"k": {"const": v}}, "type": "object"} for v in "ab"]},  # {} fits both
    {"oneOf": [{"$ref": "#"}, {"type": "string"}], "anyOf": [{}]},
    {"oneOf": [{"$ref": "https://example.com/"}, {"$ref": "#/$defs/missing"}]},
    {"const": {"oneOf": [{"type": "string"}, {"type": "null"}]}},
    {"oneOf": []},
    {"oneOf": 5},
]


@pytest.mark.parametrize("schema", EXCLUSIVE)
def test_branches_that_exclude_each_other_need_no_one_of(schema: dict[str, Any]) -> None:
    assert '"oneOf"' not in str(plain_unions(schema)).replace("'", '"')


@pytest.mark.parametrize("schema", UNKNOWN)
def test_any_other_stays(schema: dict[str, Any]) -> None:
    assert plain_unions(schema) == schema


def test_pydantics_discriminated_unions() -> None:
    assert "oneOf" not in str(plain_unions(Owner.model_json_schema()))


VALUES = st.recursive(
    st.sampled_from([None, True, 1, 1.0, 2, "a", "b", "c"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["k", "a", "b"]), inner, max_size=3),
    max_leaves=4,
)


@given(schema=st.sampled_from(EXCLUSIVE + UNKNOWN[:5]), value=VALUES)
def test_no_value_changes_sides(schema: dict[str, Any], value: Any) -> None:
    plain = Draft202012Validator(plain_unions(schema))
    assert Draft202012Validator(schema).is_valid(value) == plain.is_valid(value)


def test_a_schema_made_to_take_for_ever_does_not() -> None:
    loop = {"anyOf": [{"$ref": "#/$defs/L"}] * 100}
    began = time.process_time()
    plain_unions({"$defs": {"L": loop}, "oneOf": [{"$ref": "#/$defs/L"}] * 100})
    assert time.process_time() - began < 2
