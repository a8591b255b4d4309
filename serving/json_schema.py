"""A JSON schema as grammar engines take it. Pure.

These are adjusted, the same for every runtime:

- ``format`` values that no grammar knows are dropped: the standard makes them annotations (JSON Schema 2020-12,
  validation vocabulary, 7.2.1), and libraries emit dozens (color, path, binary, int64, …).
- An object that lists its properties and says nothing about others gets no others. The standard allows them, but a
  model that may invent keys goes on inventing; OpenAI's strict mode and xgrammar's (vLLM's default) close objects too.
  A name that is required counts as listed, with any value. Objects that are combined with further schemas stay open:
  closing a part would forbid what the others ask for.
- Keywords take the form that engines know (``serving.json_schema_forms``), ``oneOf`` that of
  ``anyOf`` where it means the same (``serving.json_schema_exclusive``).
"""

from __future__ import annotations

import json
from typing import Any

from serving.json_schema_exclusive import plain_unions
from serving.json_schema_forms import known_forms

# What llguidance has grammars for; xgrammar and outlines know some of them and ignore the others.
KNOWN_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_ONE = (
    "items", "additionalProperties", "unevaluatedProperties", "contains", "propertyNames", "not", "if", "then", "else",
)  # fmt: skip
_CONDITIONS = ("contains", "not", "if", "then", "else")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SAYS_MORE = (
    "additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "minProperties", "anyOf",
    "oneOf", "allOf", "$ref", "if", "dependentSchemas",
)  # fmt: skip


def prepared(text: str) -> str:
    """The schema ``text`` as it is enforced. Invalid JSON is returned unchanged: the engine says what is wrong."""
    try:
        schema = json.loads(text)
        adjusted = plain_unions(_prepared(schema, closed=True, combined=_combined(schema)))
    except (ValueError, RecursionError):
        return text
    written = json.dumps(adjusted)
    return text if written == json.dumps(schema) else written


def _prepared(schema: Any, *, closed: bool, combined: frozenset[str], at: str = "#") -> Any:
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    if "format" in out and out["format"] not in KNOWN_FORMATS:
        del out["format"]

    def below(part: Any, path: str, *, closed: bool = True) -> Any:
        return _prepared(part, closed=closed, combined=combined, at=f"{at}/{path}")

    together = _combining(out)
    for key in _NAMED:
        if isinstance(out.get(key), dict):
            out[key] = {name: below(part, f"{key}/{name}") for name, part in out[key].items()}
    for key in _MANY:
        if isinstance(out.get(key), list):
            out[key] = [below(part, f"{key}/{n}", closed=key not in together) for n, part in enumerate(out[key])]
    for key in _ONE:
        if isinstance(out.get(key), dict):
            out[key] = below(out[key], key, closed=key not in _CONDITIONS)
    lists_properties = isinstance(out.get("properties"), dict) and not any(key in out for key in _SAYS_MORE)
    if closed and lists_properties and at not in combined:
        required = out.get("required")
        names = [x for x in required if isinstance(x, str)] if isinstance(required, list) else []
        listed = out["properties"]  # first, in their order: it is the order of the answer
        out["properties"] = listed | {name: {} for name in names if name not in listed}
        out["additionalProperties"] = False
    return known_forms(out)


def _combining(schema: dict[str, Any]) -> tuple[str, ...]:
    """The keywords whose parts an answer must fit together with something else of ``schema``."""
    if "properties" in schema:
        return ("allOf", "anyOf", "oneOf")
    return ("allOf",) if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) > 1 else ()


def _combined(schema: Any) -> frozenset[str]:
    """The definitions that are combined with other schemas somewhere: they stay open."""
    found: set[str] = set()
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo += part
        elif isinstance(part, dict):
            todo += part.values()
            parts = [x for key in _combining(part) if isinstance(part.get(key), list) for x in part[key]]
            parts += [part] if "properties" in part else []
            found |= {x["$ref"] for x in parts if isinstance(x, dict) and isinstance(x.get("$ref"), str)}
    return frozenset(found)
