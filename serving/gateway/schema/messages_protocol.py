"""Anthropic's POST /v1/messages and /v1/messages/count_tokens, converted to a chat request."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from serving.gateway.schema.errors import bad_request
from serving.gateway.schema.formats import JsonSchemaSpec, ResponseFormat
from serving.gateway.schema.others import Fixed
from serving.gateway.schema.protocol import (
    ChatRequest,
    Function,
    JsonObject,
    Message,
    NamedFunction,
    NamedTool,
    Quick,
    Shared,
    Tool,
    note,
)
from serving.tokenizer.messages import PARTED

_LOOSE = ConfigDict(strict=True, extra="ignore")  # cache_control, citations … change no answer


class TextBlock(BaseModel):
    model_config = _LOOSE
    type: Literal["text"]
    text: str


class TextSource(BaseModel):
    """``data`` of plain text, or ``content`` in blocks."""

    model_config = _LOOSE
    type: Literal["text", "content"]
    data: str = ""
    content: str | list[TextBlock] = ""


class Citations(BaseModel):
    model_config = _LOOSE
    enabled: Literal[False] | None = None


class Document(BaseModel):
    """A document of text; its title and context go in front of it."""

    model_config = _LOOSE
    type: Literal["document"]
    source: TextSource
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None

    @property
    def text(self) -> str:
        parts = (self.title, self.context, self.source.data, _joined(self.source.content))
        return "\n\n".join(part for part in parts if part) + "\n"


class ToolUse(BaseModel):
    model_config = _LOOSE
    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject


class ToolResult(BaseModel):
    model_config = _LOOSE
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None


class Thinking(BaseModel):
    """What a reasoning model thought; no chat template here has a place for it, so it is left out."""

    model_config = _LOOSE
    type: Literal["thinking", "redacted_thinking"]


_KINDS = {
    "tool_use": "ToolUse", "tool_result": "ToolResult", "thinking": "Thinking", "redacted_thinking": "Thinking",
    "document": "Document",
}  # fmt: skip


def _kind(block: Any) -> str:
    return _KINDS.get(str(block.get("type")), "TextBlock") if isinstance(block, dict) else "TextBlock"


Block = Annotated[
    Annotated[TextBlock, Tag("TextBlock")]
    | Annotated[ToolUse, Tag("ToolUse")]
    | Annotated[ToolResult, Tag("ToolResult")]
    | Annotated[Thinking, Tag("Thinking")]
    | Annotated[Document, Tag("Document")],
    Discriminator(_kind),
]


class ChatTurn(BaseModel):
    model_config = _LOOSE
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class CustomTool(BaseModel):
    model_config = _LOOSE
    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None


class Choice(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class NoThinking(BaseModel):
    """``adaptive`` leaves it to the model how much it thinks, and this one does not."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["disabled", "adaptive"]
    display: str | None = None


class ClearThinking(BaseModel):
    """Changes nothing: no thoughts of earlier turns reach the model."""

    model_config = _LOOSE
    type: Literal["clear_thinking_20251015"]


class ContextManagement(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    edits: list[ClearThinking] | None = None


class OutputFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    format: OutputFormat | None = None
    effort: Literal["high"] | None = None  # Anthropic's default


_NO_SUCH_FEATURE = "this server has no such feature"
NO_THREADS = "thread_unsupported_request"  # Anthropic's word
_FIXED: dict[str, Fixed] = {
    "service_tier": Fixed(("auto", "standard_only"), False, False, "there is one tier"),
    "cache_control": Fixed(({"type": "ephemeral"},), False, False, "the prefix cache needs no hint"),
    "thread": Fixed((False,), False, False, "nothing is stored: send all messages", code=NO_THREADS),
    "container": Fixed((), False, False, _NO_SUCH_FEATURE),
    "diagnostics": Fixed((), False, False, _NO_SUCH_FEATURE),
    "inference_geo": Fixed((), False, False, "this server has one place"),
    "speed": Fixed(("standard",), False, False, "there is one speed"),
    "mcp_servers": Fixed((), False, False, "this server runs no tools"),
    "max_completion_tokens": Fixed((), False, False, "here it is called max_tokens"),
}


class CountRequest(Shared):
    """POST /v1/messages/count_tokens."""

    others: ClassVar[dict[str, Fixed]] = _FIXED

    messages: Quick[ChatTurn] = Field(
        min_length=1, description="text, text documents, tool_use and tool_result blocks; images are refused"
    )
    system: str | list[TextBlock] | None = note("goes in front of messages")
    tools: list[CustomTool] | None = note("functions; tools that would run here are refused")
    tool_choice: Choice | None = note("`any` and `tool` need an engine with guided decoding")
    thinking: NoThinking | None = note("`disabled` or `adaptive`: Qwen2.5 has no separate reasoning")
    output_config: OutputConfig | None = note("`format`, enforced or refused; `effort` only `high`, the default")
    output_format: OutputFormat | None = note("`output_config.format` under its older name")
    context_management: ContextManagement | None = note("only what clears thinking, of which there is none")


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1, description="of the answer")
    stop_sequences: list[str] | None = note("matched on text, across tokens; up to 64")


RENAMED = {
    "max_completion_tokens": "max_tokens", "stop": "stop_sequences", "response_format": "output_config.format",
    "tool_choice.function.name": "tool_choice.name",
}  # fmt: skip


def as_chat(request: CountRequest) -> ChatRequest:
    """The equivalent chat request. A last message of the assistant is the beginning of the answer."""
    same = {name: getattr(request, name) for name in Shared.model_fields}
    stops = getattr(request, "stop_sequences", None)
    found = [message for at, turn in enumerate(request.messages) for message in _messages(at, turn)]
    if system := _system(request.system or ""):
        found.insert(0, Message(role="system", content=system))
    goes_on = bool(found) and found[-1].role == "assistant" and not found[-1].tool_calls
    if goes_on and not found[-1].content:
        goes_on = not found.pop()
    choice = request.tool_choice
    wanted = request.output_config.format if request.output_config else None
    if wanted and request.output_format:
        raise bad_request("output_format", "given together with output_config.format; send one")
    wanted = wanted or request.output_format
    return ChatRequest.model_construct(
        **(same | ({"stop": stops} if stops else {})),
        messages=found,
        max_completion_tokens=getattr(request, "max_tokens", None),
        continue_final_message=True if goes_on else None,
        tools=[_tool(tool) for tool in request.tools or ()],
        tool_choice=_choice(choice) if choice else None,
        parallel_tool_calls=False if choice and choice.disable_parallel_tool_use else None,
        response_format=wanted and _format(wanted),
    )


def _messages(at: int, turn: ChatTurn) -> list[Message]:
    """The results of tools first, then what the user says about them."""
    if isinstance(turn.content, str):
        return [Message(role=turn.role, content=turn.content)]
    text = PARTED.join(block.text for block in turn.content if isinstance(block, TextBlock | Document))
    calls = [_call(block) for block in turn.content if isinstance(block, ToolUse)]
    results = [block for block in turn.content if isinstance(block, ToolResult)]
    if (calls and turn.role != "assistant") or (results and turn.role != "user"):
        wrong, right = ("tool_use", "assistant") if calls and turn.role != "assistant" else ("tool_result", "user")
        problem = f"a message of the {turn.role} cannot contain {wrong}; send it in one of the {right}"
        raise bad_request(f"messages[{at}].content", problem)
    found = [Message(role="tool", tool_call_id=r.tool_use_id, content=_joined(r.content or "")) for r in results]
    if text or calls or not results:
        found.append(Message(role=turn.role, content=text, tool_calls=calls or None))
    return found


_BILLING = "x-anthropic-billing-header:"


def _system(content: str | list[TextBlock]) -> str:
    """Without Claude Code's note to Anthropic's billing, which differs by conversation: in front of everything else, it
    would leave the prefix cache nothing to find."""
    if isinstance(content, list):
        content = [block for block in content if not block.text.startswith(_BILLING)]
    return _joined(content)


def _joined(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else PARTED.join(block.text for block in content)


def _call(block: ToolUse) -> JsonObject:
    function = {"name": block.name, "arguments": orjson.dumps(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _tool(tool: CustomTool) -> Tool:
    function = Function(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )  # fmt: skip
    return Tool(type="function", function=function)


def _choice(choice: Choice) -> str | NamedTool:
    if choice.type != "tool":
        return "required" if choice.type == "any" else choice.type
    if choice.name is None:
        raise bad_request("tool_choice.name", "missing; it is required with type tool")
    return NamedTool(function=NamedFunction(name=choice.name))


def _format(wanted: OutputFormat) -> ResponseFormat:
    return ResponseFormat(type="json_schema", json_schema=JsonSchemaSpec(name="answer", schema=wanted.schema_))
