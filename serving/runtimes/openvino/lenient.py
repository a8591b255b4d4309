"""Schemas that nobody promised to enforce (``x-guidance: {"lenient": true}``), without what llguidance cannot read.

Its own ``lenient`` leaves out keywords that it lacks. Still, a pattern with look-around, a reference that leads
nowhere, a number beyond its own or an invalid type (Google's APIs write ``STRING``) would make it refuse the whole
schema. LiteLLM writes ``#/$defs/A`` as ``/$defs/A``.
"""

from __future__ import annotations

from typing import Any

from llguidance import LLMatcher

from serving.json_schema_exclusive import VALUE_KEYWORDS, target
from serving.runtimes.openvino.survivable import checked_schema, written

Schema = dict[str, Any]
VALUES = ("const", "enum")  # with numbers, perhaps, that it cannot keep
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")  # may be beyond its own
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def is_lenient(schema: Any) -> bool:
    guidance = schema.get("x-guidance") if isinstance(schema, dict) else None
    return isinstance(guidance, dict) and guidance.get("lenient") is True


def compiles(schema: Schema) -> bool:
    try:
        checked_schema(schema)
        text = written(schema)
    except ValueError:
        return False
    problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(text))
    return not problem or problem.startswith("WARNING")


def readable(schema: Schema) -> Schema:
    """``schema`` itself where llguidance compiles it, or where it is not lenient; else what is left of it, which may
    still not compile."""
    if not is_lenient(schema) or compiles(schema):
        return schema
    left: Schema = _readable(schema, schema)
    return left


def readable_or_any(schema: Schema) -> Schema:
    """The schema of a call's arguments: any object if llguidance cannot read what is left of theirs."""
    left = readable(schema)
    return left if not is_lenient(schema) or compiles(left) else {"type": "object"}


def _readable(part: Any, root: Schema) -> Any:
    if isinstance(part, list):
        return [_readable(x, root) for x in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _reference(value, root) if key == "$ref" else value if key in VALUE_KEYWORDS else _readable(value, root)
        for key, value in part.items()
        if not _is_broken(key, value, root)
    }


def _reference(value: Any, root: Schema) -> Any:
    return f"#{value}" if isinstance(value, str) and value.startswith("/") else _readable(value, root)


def _is_broken(key: str, value: Any, root: Schema) -> bool:
    if key in VALUES and not isinstance(value, dict):
        return not compiles({key: value})
    if key in BOUNDS and isinstance(value, int | float):
        return not all(compiles({"type": kind, key: value}) for kind in ("integer", "number"))
    if not isinstance(value, str):
        return False  # a property may be called "pattern"
    if key == "type":
        return value not in TYPES
    if key == "$ref":
        return not isinstance(target(root, _reference(value, root)), dict | bool)
    return key == "pattern" and not compiles({"type": "string", "pattern": value})
