"""OpenAI tool definitions, checked as the gateway's schema checks them and in its words: whatever else a template would
render into the prompt as it came."""

from __future__ import annotations

import re
from typing import Any

from contract import nesting
from contract.errors import InvalidRequest, Unsupported, misplaced, shown, shown_json

TOOL_NAME = r"^[A-Za-z0-9_.-]{1,128}$"
# path in a tool -> type, what it should be, and whether it is required
_PARTS: tuple[tuple[str, type, str, bool], ...] = (
    ("function", dict, "an object", True),
    ("function.name", str, "a string", True),
    ("function.description", str, "a string", False),
    ("function.parameters", dict, "an object", False),
    ("function.strict", bool, "true or false", False),
)


def tool_list(text: str) -> list[dict[str, Any]]:
    """The value of the input ``tools``. Raises ``InvalidRequest`` for the first wrong part of it."""
    try:
        value = nesting.loads(text)
    except ValueError as error:
        raise InvalidRequest("tools", f"not JSON ({error}); send a JSON list") from None
    if not isinstance(value, list):
        raise _wrong("tools", value, "a list")
    for at, tool in enumerate(value):
        _check(f"tools[{at}]", tool)
    return value


def _check(where: str, tool: Any) -> None:
    if not isinstance(tool, dict):
        raise _wrong(where, tool, "an object")
    if "type" not in tool:
        raise InvalidRequest(f"{where}.type", "missing; it is required")
    if tool["type"] != "function":
        raise Unsupported(f"{where}.type", f"{shown_json(tool['type'])} is not supported; send functions")
    for path, kind, should, required in _PARTS:
        parent, _, name = path.rpartition(".")
        holder = tool[parent] if parent else tool
        if holder.get(name) is None and not (required and name in holder):
            if required:
                raise InvalidRequest(f"{where}.{path}", "missing; it is required")
        elif not isinstance(holder[name], kind):
            raise _wrong(f"{where}.{path}", holder[name], should)
    if not re.fullmatch(TOOL_NAME, tool["function"]["name"]):
        problem = f"{shown(tool['function']['name'])} is wrong: string should match pattern '{TOOL_NAME}'"
        raise InvalidRequest(f"{where}.function.name", problem)


def _wrong(path: str, value: Any, should: str) -> InvalidRequest:
    return InvalidRequest(path, misplaced(value, should))
