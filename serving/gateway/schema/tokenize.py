"""The request bodies of /tokenize and /detokenize, in vLLM's shape."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serving.gateway.schema.protocol import JsonObject, Message, Quick, Tool


class TokenizeRequest(BaseModel):
    """POST /tokenize: ``prompt`` or ``messages``."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    prompt: str | None = None
    messages: Quick[Message] | None = Field(default=None, min_length=1)
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: JsonObject | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    tokens: Quick[int]
