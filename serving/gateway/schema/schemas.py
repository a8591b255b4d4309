"""JSON schemas on their way to the engine. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from serving.gateway.core.errors import bad_request
from serving.gateway.schema.protocol import ChatRequest


def dumped(value: Any, field: str = "tools") -> str:
    """JSON text. Raises ``ApiError`` naming ``field`` for what is nested beyond bounds."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise bad_request(field, f"the schema cannot be passed on ({error}); nest it less deeply") from None


def _moved(schema: Any, root: str) -> Any:
    """``schema`` with its own references (``#/$defs/…``) pointing below ``root``, where it is put now."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    target = moved.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = root + target[1:]
    return moved


def required_calls(request: ChatRequest) -> dict[str, Any]:
    """What ``tool_choice: required`` makes the answer: a list of calls of the request's tools."""
    calls, definitions = [], {}
    for at, tool in enumerate(request.tools or ()):
        arguments = tool.function.parameters or {"type": "object"}
        if '"$ref"' in dumped(arguments):  # its pointers start at its own top: give it a place of its own
            root = f"#/$defs/tool{at}"
            definitions[f"tool{at}"] = _moved(arguments, root)
            arguments = {"$ref": root}
        calls.append({
            "type": "object", "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
            "required": ["name", "arguments"], "additionalProperties": False,
        })  # fmt: skip
    most = {"maxItems": 1} if request.parallel_tool_calls is False else {}
    return {
        **({"$defs": definitions} if definitions else {}),
        "type": "array",
        "minItems": 1,
        **most,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
    }
