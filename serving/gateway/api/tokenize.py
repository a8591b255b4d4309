"""/tokenize, /detokenize and /tokenizer_info."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.gateway.api import http
from serving.gateway.core import translate
from serving.gateway.core.gateway import Gateway
from serving.gateway.schema import messages_protocol, parse
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.protocol import ChatRequest
from serving.gateway.schema.tokenize import DetokenizeRequest, TokenizeRequest

ENDS = ("add_generation_prompt", "continue_final_message")  # decide how a rendered chat ends


class Tokenize:
    """Handlers that share a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def tokenize(self, request: Request) -> Response:
        asked = await self._read(TokenizeRequest, request)
        self._gateway.model_name(asked.model)
        tokens = self._gateway.tokens
        if asked.prompt is not None and asked.messages is None:
            await tokens.load()
            ids = await asyncio.to_thread(tokens.encode, asked.prompt)
        elif asked.prompt is None and asked.messages is not None:
            await tokens.load(template=True)
            plan = translate.chat(ChatRequest(messages=asked.messages, tools=asked.tools))
            given = {name: value for name in ENDS if (value := getattr(asked, name)) is not None}
            ids = await asyncio.to_thread(tokens.encode_chat, list(plan.prompts[0]), plan.options.tools, given)  # type: ignore[arg-type]
        else:
            raise ApiError(400, "prompt: send exactly one of prompt and messages", param="prompt")
        if asked.return_token_strs:
            await tokens.load()
        texts = [tokens.text(i).decode(errors="replace") for i in ids] if asked.return_token_strs else None
        return JSONResponse(
            {"count": len(ids), "max_model_len": self._gateway.context, "tokens": ids, "token_strs": texts}
        )

    async def info(self, _: Request) -> Response:
        """As vLLM's, for clients that render and count by themselves."""
        return JSONResponse(self._gateway.tokens.info)

    async def count(self, request: Request) -> Response:
        """Anthropic's count_tokens: the prompt that the same /v1/messages would make."""
        asked = await self._read(messages_protocol.CountRequest, request)
        self._gateway.model_name(asked.model)
        await self._gateway.tokens.load(template=True)
        try:
            plan = translate.chat(messages_protocol.as_chat(asked))
        except ApiError as error:
            raise messages_protocol.renamed(error) from None
        goes_on = {"continue_final_message": True} if plan.options.continue_final_message else {}
        chat: Any = plan.prompts[0]
        tools: Any = plan.options.tools
        ids = await asyncio.to_thread(self._gateway.tokens.encode_chat, list(chat), tools, goes_on)
        return JSONResponse({"input_tokens": len(ids)})

    async def detokenize(self, request: Request) -> Response:
        asked = await self._read(DetokenizeRequest, request)
        self._gateway.model_name(asked.model)
        await self._gateway.tokens.load()
        return JSONResponse({"prompt": await asyncio.to_thread(self._gateway.tokens.decode, asked.tokens)})

    async def _read(self, kind: type[parse.Request], request: Request) -> parse.Request:
        body = await http.read_body(request.scope, request.receive, self._gateway.settings.max_body_bytes)
        return await http.request_of(kind, body)
