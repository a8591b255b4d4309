"""The input of /v1/responses: messages, function calls and their outputs, and how they become a chat's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from serving.gateway.schema.errors import bad_request
from serving.gateway.schema.protocol import Message, Part

_NO_ITEMS = (
    "nothing is stored; send items whole (Vercel AI SDK: providerOptions: {openai: {store: false}}), or set "
    "GATEWAY_RESPONSES_STORE on the server"
)


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


_KINDS = {
    "function_call": "FunctionCall", "function_call_output": "FunctionCallOutput", "reasoning": "ReasoningItem",
    "item_reference": "ItemReference",
}  # fmt: skip


def _kind(item: Any) -> str:
    return _KINDS.get(str(item.get("type")), "InputMessage") if isinstance(item, dict) else "InputMessage"


Item = Annotated[
    Annotated[InputMessage, Tag("InputMessage")]
    | Annotated[FunctionCall, Tag("FunctionCall")]
    | Annotated[FunctionCallOutput, Tag("FunctionCallOutput")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[ItemReference, Tag("ItemReference")],
    Discriminator(_kind),
]


def messages_of(given: str | Sequence[Item]) -> list[Message]:
    """Consecutive function calls become one assistant message, as in the chat API."""
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    found: list[Message] = []
    for at, item in enumerate(given):
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
