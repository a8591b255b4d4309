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
    """OpenAI's types, and those that trtllm-serve and TGI have for the same grammars: ``json``, ``regex``, ``ebnf``."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text", "json_object", "json_schema", "structural_tag", "json", "regex", "ebnf"]
    json_schema: JsonSchemaSpec | None = None
    format: JsonObject | None = None  # of structural tags; the older notation has the other two
    structures: list[JsonObject] | None = None
    triggers: list[str] | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")  # with json_object, as llama.cpp takes it
    regex: str | None = None
    ebnf: str | None = None
    value: JsonObject | str | None = None  # TGI's one name for schema and regex; Hugging Face's client sends it too
