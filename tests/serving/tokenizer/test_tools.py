"""Tools are refused over gRPC as at the gateway: the same fields, and the same words where it has no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.errors import InvalidRequest
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.parse import parse
from serving.gateway.schema.protocol import ChatRequest
from serving.tokenizer.tools import tool_list


def function(**more: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": more}]


@pytest.mark.parametrize(
    "tools",
    [
        "x", 5, True, None, {"a": 1}, ["x"], [None], [{"a": 1}], [{"type": "function"}],
        [{"type": "function", "function": 5}], [{"type": "function", "function": None}], function(),
        function(name=5), function(name=None), function(name="a", description=3), function(name="a", parameters="s"),
        function(name="a", strict="x"), [*function(name="a"), {"type": "custom"}], [{"type": 5}], [{"type": None}],
    ],
)  # fmt: skip
def test_what_is_no_list_of_functions_is_refused_as_by_the_gateway(tools: Any) -> None:
    with pytest.raises(InvalidRequest) as here:
        tool_list(json.dumps(tools))
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    if tools is None:  # over HTTP null is the same as nothing
        assert str(here.value) == "tools: null is wrong: should be a list"
        return
    with pytest.raises(ApiError) as there:
        parse(ChatRequest, body)
    assert here.value.field == there.value.param
    if "not supported" in str(here.value):
        assert str(there.value).startswith(str(here.value).removesuffix("; send functions"))
    else:
        assert str(here.value) == str(there.value)


def test_functions_pass_as_they_came() -> None:
    tools = [
        *function(name="a"), *function(name="b", description=None, parameters={"type": "object"}, strict=True, more=1),
    ]  # fmt: skip
    assert tool_list(json.dumps(tools)) == tools and tool_list("[]") == []


def test_what_is_no_json_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"^tools: not JSON"):
        tool_list("{")
