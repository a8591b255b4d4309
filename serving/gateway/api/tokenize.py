"""/tokenize, /detokenize, /tokenizer_info, and how many tokens a prompt has in OpenAI's and Anthropic's API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.gateway.api import http, stored
from serving.gateway.core import translate
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.off_loop import LARGE, off_loop
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.schema import messages_protocol, parse, responses_protocol
from serving.gateway.schema.errors import bad_request, renaming
from serving.gateway.schema.protocol import ChatRequest
from serving.gateway.schema.tokenize import DetokenizeRequest, TokenizeRequest

BODY_BYTES = 2 << 20  # the library keeps 100 bytes per byte of text and returns them while every stream waits
ENDS = ("add_generation_prompt", "continue_final_message")  # decide how a rendered chat ends


class Tokenize:
    """Handlers that share a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def tokenize(self, request: Request) -> Response:
        asked, size = await self._read(TokenizeRequest, request)
        self._gateway.check_template(asked.chat_template_kwargs)
        self._gateway.model_name(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            problem = "missing" if asked.prompt is None else "given beside messages"
            raise bad_request("prompt", f"{problem}; send exactly one of prompt and messages")
        tokens = self._gateway.tokens
        if asked.messages is None or asked.return_token_strs:
            await tokens.load()
        if asked.messages is not None:
            await tokens.load(template=True)

        def answer() -> dict[str, Any]:
            ids = self._ids(asked)
            names = [tokens.name(i) for i in ids] if asked.return_token_strs else None
            return {"count": len(ids), "max_model_len": self._gateway.context, "tokens": ids, "token_strs": names}

        return await _json_of(size, answer)

    def _ids(self, asked: TokenizeRequest) -> list[int]:
        if asked.messages is None:
            return self._gateway.tokens.encode(asked.prompt or "")
        plan = translate.chat(ChatRequest(messages=asked.messages, tools=asked.tools))
        given = {name: value for name in ENDS if (value := getattr(asked, name)) is not None}
        return self._encoded(plan, given)

    def _encoded(self, plan: GenerationPlan, flags: dict[str, bool]) -> list[int]:
        chat: Any = plan.prompts[0]
        tools: Any = plan.options.tools
        return self._gateway.tokens.encode_chat(list(chat), tools, flags)

    async def info(self, _: Request) -> Response:
        """vLLM's /tokenizer_info, for clients that render and count by themselves."""
        return JSONResponse(self._gateway.tokens.info)

    async def count(self, request: Request) -> Response:
        """Anthropic's count_tokens: the prompt that the same /v1/messages would make."""
        asked, size = await self._read(messages_protocol.CountRequest, request)
        self._gateway.model_name(asked.model)
        await self._gateway.tokens.load(template=True)

        def answer() -> dict[str, Any]:
            with renaming(messages_protocol.RENAMED):
                plan = translate.chat(messages_protocol.as_chat(asked))
            goes_on = {"continue_final_message": True} if plan.options.continue_final_message else {}
            return {"input_tokens": len(self._encoded(plan, goes_on))}

        return await _json_of(size, answer)

    async def count_input(self, request: Request) -> Response:
        """OpenAI's input_tokens: the prompt that the same /v1/responses would make."""
        asked, size = await self._read(responses_protocol.ResponsesRequest, request)
        self._gateway.model_name(asked.model)
        key = self._gateway.keys.authenticate(http.credentials(request.scope))
        whole = await stored.resolved(self._gateway.responses, key.name if key else "", asked)
        await self._gateway.tokens.load(template=True)

        def answer() -> dict[str, Any]:
            with renaming(responses_protocol.RENAMED):
                plan = translate.chat(responses_protocol.as_chat(whole))
            return {"object": "response.input_tokens", "input_tokens": len(self._encoded(plan, {}))}

        return await _json_of(size, answer)

    async def detokenize(self, request: Request) -> Response:
        asked, size = await self._read(DetokenizeRequest, request)
        self._gateway.model_name(asked.model)
        await self._gateway.tokens.load()
        return await _json_of(size, lambda: {"prompt": self._gateway.tokens.decode(asked.tokens)})

    async def _read(self, kind: type[parse.Request], request: Request) -> tuple[parse.Request, int]:
        """The request and its size in bytes."""
        most = min(BODY_BYTES, self._gateway.settings.max_body_bytes)
        with self._gateway.bodies.begin() as held:
            body = await http.read_body(request.scope, request.receive, most, held)
            return await http.request_of(kind, body), len(body)


async def _json_of(size: int, answer: Callable[[], dict[str, Any]]) -> Response:
    """Made and written in a thread, that for large bodies where there are ``size`` bytes of text: 2 MB have half a
    million tokens."""

    def work() -> bytes:
        return orjson.dumps(answer())

    body = await (off_loop(size, work) if size > LARGE else asyncio.to_thread(work))
    return Response(body, media_type="application/json")
