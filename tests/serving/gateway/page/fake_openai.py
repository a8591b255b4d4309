"""A small OpenAI-compatible server that misbehaves on request, for the page and client tests.

The last user message chooses what happens: ``/status 429``, ``/break`` (connection cut in the middle), ``/event``
(error event in the stream), ``/slow``, ``/hang`` (no byte), ``/bytes N`` (stream cut into N-byte pieces),
``/say TEXT``; anything else is answered with ``ANSWER``. What was asked and how many streams are open is kept for the
test to look at.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.gateway.api import page

ANSWER = """Here is **bold** text, a list and code, 你好世界 🎉:

1. first
2. second, with `inline`

```python
def merge(a: list[int], b: list[int]) -> list[int]:
    # two fingers
    return sorted(a + b)  # "simple"
```

| precision | size |
|---|---|
| FP8 | 7.6 GB |
| INT8 | 7.7 GB |

See [the docs](https://example.com/docs).
"""
STEP_S = 0.01
ERRORS = {
    "400": (
        "invalid_request_error",
        "context_length_exceeded",
        "messages: 40000 tokens exceed the context length of 32768",
    ),
    "401": ("authentication_error", "invalid_api_key", "Authorization: the key is missing"),
    "422": ("invalid_request_error", None, "temperature: must be between 0 and 2, got 9"),
    "429": ("rate_limit_error", "queue_full", "queue: 64 requests wait already"),
    "500": ("server_error", None, "engine: it broke"),
    "503": ("server_error", "draining", "server: shutting down"),
}


class Cut(Response):
    """Two events, then the connection goes away in the middle of the third."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"content-length", b"100000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for text in ("It starts ", "well and"):
            await send({"type": "http.response.body", "body": event(text), "more_body": True})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b'data: {"cho', "more_body": False})


def event(text: str | None, *, finish: str | None = None, tokens: int = 0, prompt: int = 0) -> bytes:
    delta = {} if text is None else {"content": text}
    chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    chunk["usage"] = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


class FakeOpenAI:
    def __init__(self) -> None:
        self.open_streams = 0
        self.forget()
        self.app = Starlette(
            routes=[
                *page.routes(),
                Route("/v1/models", lambda _: JSONResponse({"object": "list", "data": self.models})),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    def forget(self) -> None:
        """As new, for the next test."""
        self.requests: list[dict[str, Any]] = []
        self.refuse: str | None = None  # a status that every chat request gets, whatever it says
        self.models: list[dict[str, Any]] = [{"id": "qwen", "object": "model", "max_model_len": 32768}]

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body | {"authorization": request.headers.get("authorization")})
        asked = body["messages"][-1]["content"]
        if self.refuse or asked.startswith("/status "):
            return refusal(self.refuse or asked.split()[1])
        if asked == "/break":
            return Cut()
        return StreamingResponse(self.counted(body), media_type="text/event-stream")

    async def counted(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        self.open_streams += 1
        try:
            asked = body["messages"][-1]["content"]
            async for piece in pieces(events(asked), asked):
                yield piece
        finally:
            self.open_streams -= 1


async def events(asked: str) -> AsyncIterator[bytes]:
    yield b": keep-alive\n\n"
    if asked == "/hang":
        await asyncio.sleep(60)
    text = asked.removeprefix("/say ") if asked.startswith("/say ") else "word " * 400 if asked == "/slow" else ANSWER
    parts = [text[at : at + 5] for at in range(0, len(text), 5)]
    for count, part in enumerate(parts, 1):
        if asked == "/event" and count == 4:
            yield b'event: error\ndata: {"error": {"message": "engine: it broke", "type": "server_error"}}\n\n'
            return
        yield event(part, tokens=count, prompt=12)
        await asyncio.sleep(STEP_S * (10 if asked == "/slow" else 1))
    yield event(None, finish="stop", tokens=len(parts), prompt=12)
    yield b"data: [DONE]\n\n"


async def pieces(source: AsyncIterator[bytes], asked: str) -> AsyncIterator[bytes]:
    size = int(asked.split()[1]) if asked.startswith("/bytes ") else 0
    async for data in source:
        if not size:
            yield data
        for at in range(0, len(data) if size else 0, size or 1):
            yield data[at : at + size]
            await asyncio.sleep(0)


def refusal(status: str) -> JSONResponse:
    kind, code, message = ERRORS[status]
    headers = {"Retry-After": "2"} if status == "429" else {}
    error = {"message": message, "type": kind, "code": code, "param": None}
    return JSONResponse({"error": error}, status_code=int(status), headers=headers)


@contextmanager
def serve(app: Any) -> Iterator[str]:
    """Runs an ASGI app on a free port of 127.0.0.1 in a thread; yields its base URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the fake server did not start")
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
