"""The gateway's OpenAPI document, generated from the pydantic models that validate requests."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

from serving.gateway.schema.messages_protocol import CountRequest, MessagesRequest
from serving.gateway.schema.protocol import ChatRequest, CompletionRequest
from serving.gateway.schema.responses_protocol import ResponsesRequest
from serving.gateway.schema.tokenize import DetokenizeRequest, TokenizeRequest

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MESSAGES_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
_POSTS: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatRequest, "Chat completion; text/event-stream with stream: true"),
    "/v1/completions": (CompletionRequest, "Completion of raw text; text/event-stream with stream: true"),
    "/invocations": (ChatRequest, "What SageMaker calls: a chat, or with prompt a completion"),
    "/v1/responses": (ResponsesRequest, "Response of a model; typed text/event-stream with stream: true"),
    "/v1/messages": (MessagesRequest, "Anthropic's message; typed text/event-stream with stream: true"),
    "/v1/messages/count_tokens": (CountRequest, "Tokens of a message's prompt"),
    "/v1/responses/input_tokens": (ResponsesRequest, "Tokens of a response's prompt"),
    "/tokenize": (TokenizeRequest, "Text or messages to token ids"),
    "/detokenize": (DetokenizeRequest, "Token ids to text"),
}
_GETS = {
    "/v1/models": "Served models",
    "/v1/models/{name}": "One of them",
    "/v1/responses/{name}": "A stored response; needs GATEWAY_RESPONSES_STORE",
    "/tokenizer_info": "The checkpoint's tokenizer_config.json, with its chat template",
    "/version": "Version of this server",
    "/load": "Requests in progress in this worker process",
    "/v1/loads": "Running and waiting requests of the engine, and its KV use, as SGLang says it",
    "/ping": "The process answers",
    "/health": "Requests can be answered",
    "/health/live": "The process answers",
    "/health/ready": "Requests can be answered",
    "/health/generate": "A real one-token answer",
    "/health_generate": "The same, as SGLang and trtllm-serve call it",
    "/metrics": "Prometheus text",
}
_STREAMED = ("/invocations", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


@cache
def document() -> dict[str, Any]:
    schemas: dict[str, Any] = {"Error": _ERROR, "MessagesError": _MESSAGES_ERROR}
    paths: dict[str, Any] = {}
    for path, (model, about) in _POSTS.items():
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        paths[path] = {"post": _operation(about, path, body={"$ref": _REF.format(model=model.__name__)})}
    for path, about in _GETS.items():
        paths[path] = {"get": _operation(about, path)}
    paths["/v1/responses/{name}"]["delete"] = _operation("Forget a stored response", "/v1/responses/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwen2.5 on Triton", "version": "1", "description": "OpenAI-compatible gateway"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(about: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    kind = "text/plain" if path == "/metrics" else "application/json"
    good: dict[str, Any] = {kind: {}} | ({"text/event-stream": {}} if path in _STREAMED else {})
    shape, whose = ("MessagesError", "Anthropic's") if path.startswith("/v1/messages") else ("Error", "OpenAI's")
    error = {"application/json": {"schema": {"$ref": _REF.format(model=shape)}}}
    operation: dict[str, Any] = {
        "summary": about,
        "security": [{}, {"key": []}],
        "responses": {
            "200": {"description": "OK", "content": good},
            "503": {"description": "not now", "content": {"application/json": {}}},
            "default": {"description": f"an error in {whose} shape", "content": error},
        },
    }
    if "{name}" in path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [name]
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation
