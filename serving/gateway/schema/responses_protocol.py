"""POST /v1/responses, converted to a chat request. Each request carries its whole conversation, unless the gateway
keeps responses: then earlier items are put in front first. Without, what would need storage is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from serving.gateway.schema.errors import ApiError, bad_request
from serving.gateway.schema.others import Fixed
from serving.gateway.schema.protocol import (
    AllowedChoice,
    AllowedTools,
    ChatRequest,
    Function,
    JsonObject,
    Message,
    NamedFunction,
    NamedTool,
    Part,
    Quick,
    ResponseFormat,
    Shared,
    Tool,
    note,
)

LOGPROBS = "message.output_text.logprobs"
_NO_ITEMS = (
    "nothing is stored: send items whole (Vercel AI SDK: providerOptions: {openai: {store: false}}), or set "
    "GATEWAY_RESPONSES_STORE on the server"
)
_STORED = "nothing is stored: send the whole conversation as input"


class InputPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class InputMessage(BaseModel):
    """A message; ``id``, ``status``, ``phase`` of one sent back are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["message"] | None = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart] | None


class ItemReference(BaseModel):
    """An item that the caller believes to be stored here."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["item_reference"]
    id: str


class FunctionCall(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str


class FunctionCallOutput(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart] | None


class ReasoningItem(BaseModel):
    """What a reasoning model thought; no chat template here has a place for it, so it is left out."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["reasoning"]


class FunctionTool(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
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


class TextFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(BaseModel):
    """Responses contain this object with nulls, so clients send it back that way."""

    model_config = ConfigDict(strict=True, extra="forbid")
    effort: Literal["none"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseStreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_obfuscation: bool | None = False


_KINDS = {
    "function_call": "FunctionCall", "function_call_output": "FunctionCallOutput", "reasoning": "ReasoningItem",
    "item_reference": "ItemReference",
}  # fmt: skip


def _kind(item: Any) -> str:
    return _KINDS.get(str(item.get("type")), "InputMessage") if isinstance(item, dict) else "InputMessage"


def _tool_kind(tool: Any) -> str:
    return "NamespaceTool" if isinstance(tool, dict) and tool.get("type") == "namespace" else "FunctionTool"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("FunctionTool")] | Annotated[NamespaceTool, Tag("NamespaceTool")],
    Discriminator(_tool_kind),
]
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
Item = Annotated[
    Annotated[InputMessage, Tag("InputMessage")]
    | Annotated[FunctionCall, Tag("FunctionCall")]
    | Annotated[FunctionCallOutput, Tag("FunctionCallOutput")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[ItemReference, Tag("ItemReference")],
    Discriminator(_kind),
]

# fmt: off
_FIXED: dict[str, Fixed] = {
    "background": Fixed((False,), True, True, "the server generates only while the caller waits"),
    "service_tier": Fixed(("auto", "default"), True, False, "there is one tier"),
    "truncation": Fixed(("disabled",), True, True, "shorten the input yourself; truncation changes its meaning"),
    "conversation": Fixed((), True, False, _STORED),
    "prompt": Fixed((), True, True, _STORED),
    "context_management": Fixed((), True, False, _STORED),
    "image": Fixed((), True, False, "the model reads and writes text"),
    "background_options": Fixed((), True, False, "the server generates only while the caller waits"),
    "access_programs": Fixed((), True, False, "this server has no such feature"),
    "enable_response_messages": Fixed((False,), False, True, "use return_token_ids of /v1/chat/completions"),
    "moderation": Fixed((), True, False, "this server has no such feature"),
    "max_tokens": Fixed((), False, False, "here it is called max_output_tokens"),
    "max_completion_tokens": Fixed((), False, False, "here it is called max_output_tokens"),
    "logprobs": Fixed((False,), False, False, f'here it is include: ["{LOGPROBS}"]'),
    "messages": Fixed((), False, False, "here it is called input"),
    "response_format": Fixed((), False, False, "here it is called text.format"),
    "n": Fixed((1,), False, False, "one answer per response"),
}
# fmt: on


class ResponsesRequest(Shared):
    """POST /v1/responses."""

    others: ClassVar[dict[str, Fixed]] = _FIXED

    input: str | Quick[Item] = Field(
        description="text, or messages, function calls and their outputs; images and files are refused",
        json_schema_extra={"x-openai": True, "x-vllm": True},
    )
    instructions: str | None = note("a system message in front of input", openai=True)
    max_output_tokens: int | None = note("default: what the context leaves", openai=True)
    text: TextConfig | None = note("`format`: `text`, `json_object`, `json_schema`, enforced or refused", openai=True)
    tools: list[AnyTool] | None = note("functions, also in namespaces; built-in tools are refused", openai=True)
    client_metadata: JsonObject | None = note("accepted, no effect", openai=True, vllm=False)
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | AllowedNames | None = note(
        "`required` and a name need an engine with guided decoding; `allowed_tools` hides the others", openai=True
    )
    max_tool_calls: int | None = note("no effect: it counts built-in tools, and there are none", openai=True)
    reasoning: Reasoning | None = note(
        "`effort` must be null or `none`: Qwen2.5 has no separate reasoning", openai=True
    )
    parallel_tool_calls: bool | None = note("false: at most one call", openai=True)
    store: bool | None = note("true: needs `GATEWAY_RESPONSES_STORE`, with which it is the default", openai=True)
    previous_response_id: str | None = note("the conversation goes on; needs `GATEWAY_RESPONSES_STORE`", openai=True)
    include: list[Includable] | None = note(
        f"`{LOGPROBS}`; OpenAI's other values are accepted and add nothing", openai=True
    )
    top_logprobs: int | None = note(f"0 to 20, with include `{LOGPROBS}`", openai=True)
    stream_options: ResponseStreamOptions | None = note("`include_obfuscation` has no effect", openai=True)


RENAMED = {
    "max_tokens": "max_output_tokens", "messages": "input", "response_format": "text.format",
    "response_format.json_schema": "text.format.schema", "tool_choice.function.name": "tool_choice.name",
    "logprobs": "include",
}  # fmt: skip


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The equivalent chat request. Raises ``ApiError`` with this endpoint's field names."""
    if request.input == []:
        raise bad_request("input", "the list is empty; send at least one item")
    scores = LOGPROBS in (request.include or ())
    if request.top_logprobs and not scores:
        raise bad_request("top_logprobs", f'{request.top_logprobs} needs include: ["{LOGPROBS}"]; set both or neither')
    same = {name: getattr(request, name) for name in Shared.model_fields}
    return ChatRequest.model_construct(
        **same,
        messages=_messages(request),
        max_completion_tokens=request.max_output_tokens,
        tools=_tools(request.tools or []),
        tool_choice=_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_format(request),
        logprobs=scores,
        top_logprobs=request.top_logprobs if scores else None,
    )


def refuse_storage(request: ResponsesRequest) -> None:
    """Where nothing is kept. Raises ``ApiError``."""
    for name in ("previous_response_id", "store"):
        if value := getattr(request, name):
            problem = f"{value!r:.80} is not supported: {_STORED} (GATEWAY_RESPONSES_STORE makes a server keep them)"
            raise bad_request(name, problem, "unsupported")


def with_items(
    request: ResponsesRequest, earlier: list[JsonObject], items: Mapping[str, JsonObject]
) -> ResponsesRequest:
    """The request behind the items of an earlier response, and with its references replaced by ``items``."""
    own = input_items(request)
    whole = [*earlier, *(items[item["id"]] if item.get("type") == "item_reference" else item for item in own)]
    return request.model_copy(update={"input": _ITEMS.validate_python(whole)})


def references(request: ResponsesRequest) -> list[str]:
    return [item.id for item in request.input if isinstance(item, ItemReference)]


def input_items(request: ResponsesRequest) -> list[JsonObject]:
    """The input as plain JSON."""
    if isinstance(request.input, str):
        return [{"type": "message", "role": "user", "content": request.input}]
    return [item.model_dump() for item in request.input]


_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(list[Item])


def _tools(given: list[FunctionTool | NamespaceTool]) -> list[Tool]:
    pairs = [
        (f"{tool.name}.{inner.name}", inner) if isinstance(tool, NamespaceTool) else (inner.name, inner)
        for tool in given
        for inner in (tool.tools if isinstance(tool, NamespaceTool) else [tool])
    ]
    return [
        Tool(type="function", function=Function(**inner.model_dump(exclude={"type", "name"}), name=name))
        for name, inner in pairs
    ]


def namespaces(request: ResponsesRequest) -> dict[str, tuple[str, str]]:
    """``namespace.name`` as the model knows a function -> namespace, name."""
    spaces = (tool for tool in request.tools or () if isinstance(tool, NamespaceTool))
    return {f"{space.name}.{tool.name}": (space.name, tool.name) for space in spaces for tool in space.tools}


def _choice(choice: str | NamedChoice | AllowedNames | None) -> str | NamedTool | AllowedChoice | None:
    if isinstance(choice, NamedChoice):
        return NamedTool(function=NamedFunction(name=choice.name))
    if isinstance(choice, AllowedNames):
        tools = [NamedTool(function=NamedFunction(name=tool.name)) for tool in choice.tools]
        return AllowedChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=choice.mode, tools=tools))
    return choice


def renamed(error: ApiError) -> ApiError:
    """``error`` of a chat request with this endpoint's field names."""
    for chat, name in RENAMED.items():
        if error.param == chat:
            error.message = name + error.message.removeprefix(chat)
            error.param = name
            break
    return error


def _format(request: ResponsesRequest) -> ResponseFormat | None:
    wanted = request.text.format if request.text else None
    if wanted is None:
        return None
    if wanted.type == "json_schema" and wanted.schema_ is None:
        raise bad_request("text.format.schema", "missing; it is required with type json_schema")
    spec = {"schema": wanted.schema_, "name": wanted.name} if wanted.type == "json_schema" else None
    return ResponseFormat.model_validate({"type": wanted.type, "json_schema": spec})


def _messages(request: ResponsesRequest) -> list[Message]:
    """Consecutive function calls become one assistant message, as in the chat API."""
    found = [Message(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        return [*found, Message(role="user", content=request.input)]
    for at, item in enumerate(request.input):
        if isinstance(item, FunctionCall):
            if not (found and found[-1].role == "assistant"):
                found.append(Message(role="assistant"))
            name = f"{item.namespace}.{item.name}" if item.namespace else item.name
            function = {"name": name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            found[-1].tool_calls = [*(found[-1].tool_calls or ()), call]
        elif isinstance(item, FunctionCallOutput):
            text = _text(f"input[{at}].output", item.output)
            found.append(Message(role="tool", tool_call_id=item.call_id, content=text))
        elif isinstance(item, ItemReference):
            raise bad_request(f"input[{at}].type", f"item_reference {item.id[:80]!r}: {_NO_ITEMS}", "unsupported")
        elif isinstance(item, InputMessage):
            content = None if item.content is None else _text(f"input[{at}].content", item.content)
            found.append(Message(role=item.role, content=content))
    return found


def _text(field: str, content: str | list[InputPart] | None) -> str | list[Part]:
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.refusal if part.type == "refusal" else part.text for part in content]
    if None in texts:
        raise bad_request(f"{field}[{texts.index(None)}].text", "missing; it is required")
    return [Part(type="text", text=text) for text in texts if text is not None]
