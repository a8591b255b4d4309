"""POST /v1/responses, converted to a chat request. Each request carries its whole conversation. Only a gateway
that keeps responses puts earlier items in front; elsewhere whatever needs storage is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contract.errors import shown_json
from serving.gateway.schema.errors import bad_request
from serving.gateway.schema.formats import ResponseFormat
from serving.gateway.schema.others import Fixed
from serving.gateway.schema.protocol import ChatRequest, JsonObject, Message, Quick, Shared, note
from serving.gateway.schema.responses_items import Item, ItemReference, messages_of
from serving.gateway.schema.responses_tools import AllowedNames, AnyTool, NamedChoice, choice_of, tools_of

LOGPROBS = "message.output_text.logprobs"
_STORED = "nothing is stored: send the whole conversation as input"


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
    include_usage: bool | None = None  # chat's, which some clients send here too; the last event always has it


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
# fmt: off
_FIXED: dict[str, Fixed] = {
    "background": Fixed((False,), True, True, "the server generates only while the caller waits"),
    "service_tier": Fixed(("auto", "default"), True, False, "there is one tier"),
    "truncation": Fixed(("disabled",), True, True, "shorten the input yourself; truncation changes its meaning"),
    "conversation": Fixed((), True, False, _STORED),
    "prompt": Fixed((), True, True, _STORED),
    "context_management": Fixed((), True, False, _STORED),
    "previous_input_messages": Fixed((), False, True, _STORED),
    "image": Fixed((), True, False, "the model reads and writes text"),
    "background_options": Fixed((), True, False, "the server generates only while the caller waits"),
    "access_programs": Fixed((), True, False, "this server has no such feature"),
    "return_token_ids": Fixed((False,), False, False, "use /v1/chat/completions"),
    "return_tokens_as_token_ids": Fixed((False,), False, False, "use /v1/chat/completions"),
    "enable_response_messages": Fixed((False,), False, True, "use return_token_ids of /v1/chat/completions"),
    "moderation": Fixed((), True, False, "this server has no such feature", asks=True),
    "request_id": Fixed((), False, True, "send the header X-Request-ID"),
    "truncate_prompt_tokens": Fixed((), False, False, "use /v1/chat/completions"),
    "truncation_side": Fixed((), False, False, "use /v1/chat/completions"),
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
    max_output_tokens: Annotated[int, Field(ge=1)] | None = note("default: what the context leaves", openai=True)
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
    stream_options: ResponseStreamOptions | None = note(
        "`include_obfuscation` and chat's `include_usage` have no effect", openai=True
    )


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
    said = [Message(role="system", content=request.instructions)] if request.instructions else []
    return ChatRequest.model_construct(
        **same,
        messages=[*said, *messages_of(request.input)],
        max_completion_tokens=request.max_output_tokens,
        tools=tools_of(request.tools or []),
        tool_choice=choice_of(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_format(request),
        logprobs=scores,
        top_logprobs=request.top_logprobs if scores else None,
    )


def refuse_storage(request: ResponsesRequest) -> None:
    """Refuse what needs stored responses, on a gateway that keeps none. Raises ``ApiError``."""
    for name in ("previous_response_id", "store"):
        if value := getattr(request, name):
            remedy = "leave it out (GATEWAY_RESPONSES_STORE makes a server keep them)"
            raise bad_request(name, f"{shown_json(value)} is not supported: {_STORED}; {remedy}", "unsupported")


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


def _format(request: ResponsesRequest) -> ResponseFormat | None:
    wanted = request.text.format if request.text else None
    if wanted is None:
        return None
    for name, given in (("name", wanted.name), ("schema", wanted.schema_)):
        if wanted.type == "json_schema" and given is None:
            raise bad_request(f"text.format.{name}", "missing; it is required with type json_schema")
    if wanted.type != "json_schema" and wanted.schema_ is not None:
        raise bad_request("text.format.schema", f"not with type {wanted.type}; leave it out or send type json_schema")
    given = {"schema": wanted.schema_, "name": wanted.name, "strict": wanted.strict}
    spec = given if wanted.type == "json_schema" else None
    return ResponseFormat.model_validate({"type": wanted.type, "json_schema": spec})
