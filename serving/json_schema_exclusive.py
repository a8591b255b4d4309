"""``oneOf`` as ``anyOf`` where no value fits two branches: there they mean the same, and engines have ``anyOf``. Pure.

Engines prove this badly or not at all: llguidance 1.9 gives up at a ``$ref``, which every union of pydantic's has.
Proved here: other types, other values of ``const`` and ``enum``, a property that both require and that differs so, and
a property that one requires and the other forbids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

Schema = dict[str, Any]
DEEPEST = 8  # references and parts that are followed for one answer
MOST_BRANCHES = 128
MOST_STEPS = 20_000  # of all proofs for one schema: 30 ms
VALUE_KEYWORDS = ("const", "enum", "default", "examples")  # these hold values, not schemas
_TYPES = frozenset(("object", "array", "string", "number", "boolean", "null"))


def plain_unions(schema: Any) -> Any:
    """``schema`` with each such ``oneOf`` as ``anyOf``."""
    proof = _Proof(schema)

    def rewritten(part: Any) -> Any:
        if isinstance(part, list):
            return [rewritten(x) for x in part]
        if not isinstance(part, dict):
            return part
        plain = "anyOf" not in part and proof.excludes_all(part.get("oneOf"), _types(part))
        return {
            "anyOf" if plain and key == "oneOf" else key: value if key in VALUE_KEYWORDS else rewritten(value)
            for key, value in part.items()
        }

    return rewritten(schema)


def written(value: Any) -> str:
    """Equal for equal values: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True)


class _Proof:
    def __init__(self, root: Any) -> None:
        self._root, self._steps = root, 0

    def excludes_all(self, branches: Any, within: frozenset[str]) -> bool:
        """Whether any two of ``branches`` exclude each other, in a schema that allows the types ``within``."""
        if not isinstance(branches, list) or not 0 < len(branches) <= MOST_BRANCHES:
            return False
        return all(self._excludes(one, other, within) for one, other in combinations(branches, 2))

    def _excludes(self, one: Any, other: Any, within: frozenset[str] = _TYPES, deep: int = 0) -> bool:
        """Whether it is certain that no value fits both. False may mean that it is not known."""
        self._steps += 1
        if one is False or other is False:
            return True
        if deep > DEEPEST or self._steps > MOST_STEPS or not isinstance(one, dict) or not isinstance(other, dict):
            return False
        common = _types(one) & _types(other) & within
        if not common:
            return True
        mine, theirs = _values(one), _values(other)
        if mine is not None and theirs is not None and mine.isdisjoint(theirs):
            return True
        if common == {"object"} and self._objects_exclude(one, other, deep):
            return True
        return any(self._parts_exclude(a, b, common, deep) for a, b in ((one, other), (other, one)))

    def _parts_exclude(self, one: Schema, other: Schema, within: frozenset[str], deep: int) -> bool:
        """Whether ``other`` excludes what ``one`` refers to, a part of its ``allOf``, or all of its alternatives."""
        needed = [target(self._root, one["$ref"])] if isinstance(one.get("$ref"), str) else []
        needed += one["allOf"] if isinstance(one.get("allOf"), list) else []
        if any(self._excludes(part, other, within, deep + 1) for part in needed):
            return True
        choices = [one[key] for key in ("anyOf", "oneOf") if isinstance(one.get(key), list) and one[key]]
        return any(all(self._excludes(part, other, within, deep + 1) for part in parts) for parts in choices)

    def _objects_exclude(self, one: Schema, other: Schema, deep: int) -> bool:
        mine, theirs = _properties(one), _properties(other)
        both = _required(one) & _required(other)
        if any(self._excludes(mine.get(name), theirs.get(name), deep=deep + 1) for name in both):
            return True
        return any(
            _forbids(b, name) for a, b in ((one, other), (other, one)) for name in _required(a)
        )  # fmt: skip


def target(root: Any, reference: str) -> Any:
    """What a pointer within the schema leads to, or ``None``."""
    if not reference.startswith("#"):
        return None
    found = root
    for step in filter(None, reference[1:].split("/")):
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _types(schema: Schema) -> frozenset[str]:
    """The types of values that may fit; an integer is a number."""
    values = _plain_values(schema)
    if values is not None:
        return frozenset(map(_type_of, values))
    given = schema.get("type")
    names = [given] if isinstance(given, str) else given if isinstance(given, list) else _TYPES
    return frozenset("number" if name == "integer" else str(name) for name in names)


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _plain_values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _values(schema: Schema) -> frozenset[str] | None:
    values = _plain_values(schema)
    return None if values is None else frozenset(map(written, values))


def _properties(schema: Schema) -> Schema:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def _required(schema: Schema) -> frozenset[str]:
    names = schema.get("required")
    return frozenset(_texts(names)) if isinstance(names, list) else frozenset()


def _texts(names: list[Any]) -> Iterator[str]:
    return (name for name in names if isinstance(name, str))


def _forbids(schema: Schema, name: str) -> bool:
    if name in _properties(schema):
        return _properties(schema)[name] is False
    return schema.get("additionalProperties") is False and "patternProperties" not in schema
