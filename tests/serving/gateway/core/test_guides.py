"""Schemas of forced tool calls, compiled by the CPU engine's own grammar library."""

from __future__ import annotations

import json
from typing import Any

from contract.sampling import Guide
from serving.gateway.core import translate
from serving.gateway.core.guides import dumped, required_calls
from serving.gateway.schema.protocol import ChatRequest
from serving.runtimes.openvino.guides import grammar_of


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def nested(kind: str) -> dict[str, Any]:
    """As pydantic writes a model within a model; two tools may use the same name for different things."""
    point = {"type": "object", "properties": {"x": {"type": kind}}, "required": ["x"]}
    own = {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}, "more": {"$ref": "#"}}, "required": ["p"]}
    return own | {"$defs": {"P": point}}


def test_references_of_each_tool_stay_its_own() -> None:
    tools = [tool("f", nested("integer")), tool("g", nested("string")), tool("h", {"type": "object"})]
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "tools": tools})
    schema = required_calls(request.tools or [], one=False)
    text = dumped(schema)
    assert grammar_of(Guide("json_schema", text))
    assert schema["$defs"]["tool0"]["properties"]["p"] == {"$ref": "#/$defs/tool0/$defs/P"}
    assert schema["$defs"]["tool1"]["properties"]["more"] == {"$ref": "#/$defs/tool1"}
    assert schema["items"]["anyOf"][2]["properties"]["arguments"] == {"type": "object"}
    assert json.loads(text)["$defs"]["tool1"]["$defs"]["P"]["properties"]["x"] == {"type": "string"}


def test_json_object_is_an_object() -> None:
    """Any JSON value would do for the engines' own kind; who asks for an object reads its keys."""
    wanted = {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}}
    options = translate.chat(ChatRequest.model_validate(wanted)).options
    assert (options.guide_type, json.loads(options.guide)) == ("json_schema", {"type": "object"})
