"""Keywords of one JSON schema object in forms that grammar engines know, with the same meaning. Pure.

- What changes nothing is left out: ``uniqueItems: false``, ``if`` without ``then`` and ``else``, an empty
  ``dependentRequired``, …. Engines refuse some of these by the name alone.
- JSON has one kind of number: ``maxItems: 3.0`` is 3.
- ``oneOf`` of branches that only say ``required`` ("exactly one of these names") becomes ``anyOf``, each branch without
  the names of the others; of branches that only list values, ``enum`` of those that one branch has. Any other ``oneOf``
  is left to the engine, which knows whether its branches exclude each other.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

from serving.json_schema_exclusive import written

Schema = dict[str, Any]
_COUNTS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)
_IDLE: dict[str, tuple[Any, ...]] = {  # keyword -> values at which it changes nothing
    "uniqueItems": (False,),
    "not": (False,),
    "propertyNames": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}
_ANNOTATIONS = ("title", "description", "$comment", "deprecated", "examples")
MOST_BRANCHES = 64


def known_forms(schema: Schema) -> Schema:
    """The same schema in these forms. Its parts are not looked into, but for the branches of ``oneOf``."""
    out = {key: _number(key, value) for key, value in schema.items() if not _idle(schema, key, value)}
    given = out.get("oneOf")
    if not isinstance(given, list) or not 1 < len(given) <= MOST_BRANCHES:
        return out
    if "enum" not in out and (values := _values_of_one(given)):
        return {"enum" if key == "oneOf" else key: values if key == "oneOf" else out[key] for key in out}
    if "anyOf" not in out and (branches := _exactly_one(given, out)):
        return {"anyOf" if key == "oneOf" else key: branches if key == "oneOf" else out[key] for key in out}
    return out


def _idle(schema: Schema, key: str, value: Any) -> bool:
    if key == "if":
        return "then" not in schema and "else" not in schema
    if key in ("then", "else"):
        return "if" not in schema
    if key in ("minContains", "maxContains"):
        return "contains" not in schema
    if key == "uniqueItems" and value is True:
        most = schema.get("maxItems")
        return isinstance(most, int | float) and most <= 1
    return any(value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in _IDLE.get(key, ()))


def _number(key: str, value: Any) -> Any:
    return int(value) if key in _COUNTS and isinstance(value, float) and value.is_integer() else value


def _values_of_one(branches: list[Any]) -> list[Any]:
    """What exactly one of the branches lists; empty where one does more than listing."""
    found: list[tuple[str, Any]] = []
    for branch in branches:
        if not isinstance(branch, dict) or ("enum" in branch) == ("const" in branch):
            return []
        values = branch["enum"] if "enum" in branch else [branch["const"]]
        if not isinstance(values, list) or any(key not in ("enum", "const", *_ANNOTATIONS) for key in branch):
            return []
        found += {written(value): value for value in values}.items()
    times = Counter(text for text, _ in found)
    return [value for text, value in found if times[text] == 1]


def _exactly_one(given: list[Any], schema: Schema) -> list[Schema] | None:
    """The branches as alternatives that exclude each other; ``None`` for branches of another kind, or too many."""
    names = [_required_only(branch, schema) for branch in given]
    found: list[Schema] = []
    for at, own in enumerate(names):
        others = [names[other] for other in range(len(names)) if other != at]
        if own is None or any(other is None for other in others):
            return None
        # of each other branch one name must be missing, and it cannot be one of ours
        for missing in product(*(sorted(set(other or ()) - set(own)) for other in others)):
            found.append({"type": "object", "required": own, "properties": dict.fromkeys(missing, False)})
            if len(found) > MOST_BRANCHES:
                return None
    return found


def _required_only(branch: Any, schema: Schema) -> list[str] | None:
    """The names that a branch asks for, if that is all it does and ``schema`` is of objects alone."""
    if not isinstance(branch, dict) or "object" not in (branch.get("type"), schema.get("type")):
        return None
    names = branch.get("required")
    plain = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if plain and all(key in ("required", "type", *_ANNOTATIONS) for key in branch) else None
