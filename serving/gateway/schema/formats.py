"""``response_format`` of chats and completions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

JsonObject = dict[str, Any]


class JsonSchemaSpec(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str  # changes nothing, but OpenAI and vLLM require it: a request without it would fail there
    description: str | None = None
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's types, vLLM's ``structural_tag``, and those that other servers have for the same grammars. Which members
    a type takes: ``TYPES`` in ``serving/gateway/core/guides.py``, which also refuses the others by name."""

    model_config = ConfigDict(strict=True, extra="allow")
    type: Literal[
        "text", "json_object", "json_schema", "structural_tag", "json", "regex", "regex_schema", "ebnf", "grammar"
    ]
    json_schema: JsonSchemaSpec | None = None
    format: JsonObject | None = None  # of structural tags; the older notation has the other two
    structures: list[JsonObject] | None = None
    triggers: list[str] | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")  # llama.cpp, trtllm-serve
    regex: str | None = None  # trtllm-serve
    pattern: str | None = None  # Together
    regex_schema: str | None = None  # LMDeploy
    ebnf: str | None = None  # trtllm-serve
    grammar: str | None = None  # Fireworks
    value: JsonObject | str | None = None  # TGI's one name for all; Hugging Face's client sends it too
