"""The endpoints that do not generate: models, tokenize, health, metrics, and 404 for what only OpenAI has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from client.errors import ClientError
from serving.gateway.api import http
from serving.gateway.core import translate
from serving.gateway.core.errors import ApiError, from_library
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.metrics import CONTENT_TYPE_LATEST
from serving.gateway.schema.protocol import ChatRequest, Message, Quick, Tool, parse

Handler = Callable[[Request], Awaitable[Response]]
STARTED = int(time.time())
ENDS = ("add_generation_prompt", "continue_final_message")  # how a rendered chat ends


class TokenizeRequest(BaseModel):
    """POST /tokenize, in vLLM's shape: ``prompt`` or ``messages``."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    prompt: str | None = None
    messages: Quick[Message] | None = Field(default=None, min_length=1)
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """POST /detokenize, in vLLM's shape."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    tokens: Quick[int]


def response_of(error: ApiError) -> Response:
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    headers |= {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return Response(error.body(), error.status, headers, "application/json")


class Small:
    """Handlers that share a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._gateway.names]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._model(self._gateway.model_name(request.path_params["name"])))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name, "object": "model", "created": STARTED, "owned_by": "qwen-triton",
            "root": self._gateway.names[0], "parent": None, "max_model_len": self._gateway.context,
            "synthetic": self._gateway.synthetic,  # random weights: the chat page says so
        }  # fmt: skip

    async def tokenize(self, request: Request) -> Response:
        asked = parse(TokenizeRequest, await _json(self._gateway, request))
        self._gateway.model_name(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise ApiError(400, "prompt: send exactly one of prompt and messages", param="prompt")
        tokens = self._gateway.tokens
        await tokens.load()
        if asked.messages is None:
            ids = await asyncio.to_thread(tokens.encode, asked.prompt)
        else:
            await tokens.load(template=True)
            chat = ChatRequest(messages=asked.messages, tools=asked.tools)
            plan = translate.chat(chat)
            given = {name: value for name in ENDS if (value := getattr(asked, name)) is not None}
            ids = await asyncio.to_thread(tokens.encode_chat, list(plan.prompts[0]), plan.options.tools, given)  # type: ignore[arg-type]
        texts = [tokens.text(i).decode(errors="replace") for i in ids] if asked.return_token_strs else None
        return JSONResponse(
            {"count": len(ids), "max_model_len": self._gateway.context, "tokens": ids, "token_strs": texts}
        )

    async def detokenize(self, request: Request) -> Response:
        asked = parse(DetokenizeRequest, await _json(self._gateway, request))
        self._gateway.model_name(asked.model)
        await self._gateway.tokens.load()
        return JSONResponse({"prompt": await asyncio.to_thread(self._gateway.tokens.decode, asked.tokens)})

    async def live(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """200 while requests can be answered; 503 with the reason while starting, draining or without Triton."""
        problem = await self._gateway.ready()
        return JSONResponse({"status": problem or "ready"}, 503 if problem else 200)

    async def generate(self, _: Request) -> Response:
        """A real one-token answer through the whole pipeline."""
        try:
            seconds = await self._gateway.canary()
        except ClientError as error:
            raise from_library(error, {}, self._gateway.relay.retry_after()) from None
        return JSONResponse({"status": "generates", "seconds": round(seconds, 4)})

    async def metrics(self, _: Request) -> Response:
        own, engine = self._gateway.metrics.text(), await self._gateway.relay.text()
        return Response(own + engine, media_type=CONTENT_TYPE_LATEST)


async def _json(gateway: Gateway, request: Request) -> Any:
    body = await http.read_body(request.scope, request.receive, gateway.settings.max_body_bytes)
    return http.read_json(body)


class Guarded:
    """ASGI around a handler: API key unless ``public``, errors in OpenAI's shape."""

    def __init__(self, gateway: Gateway, handler: Handler, *, public: bool = False) -> None:
        self._gateway, self._handler, self._public = gateway, handler, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not self._public:
                self._gateway.keys.authenticate(http.header(scope, b"authorization"))
            response = await self._handler(Request(scope, receive))
        except ApiError as error:
            if error.close:
                await http.Writer(send, "").error(error, receive)
                return
            response = response_of(error)
        except http.Gone:
            return
        self._gateway.metrics.answered(_label(scope), response.status_code)
        await response(scope, receive, send)


def _label(scope: Scope) -> str:
    """A path with a bounded number of values."""
    path: str = scope["path"]
    return "/v1/models" if path.startswith("/v1/models") else path if len(path) < 20 and "." not in path else "other"
