"""The tools of /v1/responses and the choice among them, and how they become a chat's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from serving.gateway.schema.protocol import (
    AllowedChoice,
    AllowedTools,
    Function,
    JsonObject,
    NamedFunction,
    NamedTool,
    Tool,
)
from serving.tokenizer.tools import TOOL_NAME


class FunctionTool(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    name: str = Field(pattern=TOOL_NAME)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamespaceTool(BaseModel):
    """Functions under a common name, as Codex sends them; the model knows each as ``namespace.name``."""

    model_config = ConfigDict(strict=True)
    type: Literal["namespace"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    tools: list[FunctionTool]


class NamedChoice(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    name: str


class AllowedNames(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedChoice] = Field(min_length=1)


def _tool_kind(tool: Any) -> str:
    return "NamespaceTool" if isinstance(tool, dict) and tool.get("type") == "namespace" else "FunctionTool"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("FunctionTool")] | Annotated[NamespaceTool, Tag("NamespaceTool")],
    Discriminator(_tool_kind),
]


def tools_of(given: Sequence[FunctionTool | NamespaceTool]) -> list[Tool]:
    pairs = [
        (f"{tool.name}.{inner.name}", inner) if isinstance(tool, NamespaceTool) else (inner.name, inner)
        for tool in given
        for inner in (tool.tools if isinstance(tool, NamespaceTool) else [tool])
    ]
    return [
        Tool(type="function", function=Function(**inner.model_dump(exclude={"type", "name"}), name=name))
        for name, inner in pairs
    ]


def namespaces(given: Sequence[FunctionTool | NamespaceTool]) -> dict[str, tuple[str, str]]:
    """``namespace.name`` as the model knows a function -> namespace, name."""
    spaces = (tool for tool in given if isinstance(tool, NamespaceTool))
    return {f"{space.name}.{tool.name}": (space.name, tool.name) for space in spaces for tool in space.tools}


def choice_of(choice: str | NamedChoice | AllowedNames | None) -> str | NamedTool | AllowedChoice | None:
    if isinstance(choice, NamedChoice):
        return NamedTool(function=NamedFunction(name=choice.name))
    if isinstance(choice, AllowedNames):
        tools = [NamedTool(function=NamedFunction(name=tool.name)) for tool in choice.tools]
        return AllowedChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=choice.mode, tools=tools))
    return choice
