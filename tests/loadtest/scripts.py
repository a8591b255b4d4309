"""Answers of ``script_server``: how each is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from tests.loadtest import dialects, oddities
from tests.loadtest.answer import ITL, TTFT, Answer, chunk, paced


async def plain(a: Answer) -> None:
    await a.begin()
    async for _ in paced(10):
        await a.delta(1, content="word ")
    await a.finish()


async def counted(a: Answer) -> None:
    """The count with every message; one with a token but no text yet (half a character)."""
    await a.begin()
    await a.delta(0, usage=True, role="assistant", content="")
    async for k in paced(10):
        await a.delta(1, usage=True, content="" if k == 4 else "word ")
    await a.finish()


async def several(a: Answer) -> None:
    """Four tokens a message, and only the last message says so."""
    await a.begin()
    async for _ in paced(10):
        await a.delta(4, content="four words in one ")
    await a.finish()


async def several_counted(a: Answer) -> None:
    await a.begin()
    async for _ in paced(10):
        await a.delta(4, usage=True, content="four words in one ")
    await a.finish()


async def empty_first(a: Answer) -> None:
    """A role, an empty text, an empty delta and no choices at all: none of them is a first token."""
    await a.begin()
    await a.delta(0, role="assistant")
    await a.delta(0, role="assistant", content="")
    await a.delta(0)
    await a.raw(a.event({"choices": []}))
    await a.delta(0, content=None)
    async for k in paced(10):
        await a.delta(1, content="word ")
        if k == 5:
            await a.delta(0, content="")
    await asyncio.sleep(0.03)
    await a.delta(0, finish="stop")
    await a.finish()


async def reasoning(a: Answer) -> None:
    await a.begin()
    async for k in paced(10):
        name = ("reasoning_content", "reasoning", "content")[k // 4]
        await a.delta(1, **{name: "word "})
    await a.finish()


async def tools(a: Answer) -> None:
    await a.begin()
    async for k in paced(10):
        call = {"index": 0, "function": {"arguments": "x"}} | ({"id": "1", "type": "function"} if k == 0 else {})
        await a.delta(1, tool_calls=[call], finish="tool_calls" if k == 9 else None)
    await a.finish()


async def comments(a: Answer) -> None:
    await a.begin()
    async for _ in paced(10):
        await a.raw(b": keep-alive\n\n")
        await asyncio.sleep(0.005)
        await a.delta(1, content="word ")
        await a.raw(b"event: ping\ndata:\n\n")
    await a.finish()


async def crlf(a: Answer) -> None:
    a.end = "\r\n"
    await plain(a)


async def split(a: Answer) -> None:
    """Each event in three writes, cut within its JSON and within a character; it is there when the last part is."""
    await a.begin()
    async for _ in paced(10):
        data = a.event(chunk({"content": "你好"}))
        cut = data.index("好".encode()) + 1
        for part in (data[:9], data[9:cut]):
            await a.raw(part)
            await asyncio.sleep(0.003)
        await a.raw(data[cut:], 1)
    await a.finish()


async def burst(a: Answer) -> None:
    """All tokens in one write, as through a proxy that buffers."""
    await a.begin()
    await asyncio.sleep(TTFT)
    await a.raw(b"".join(a.event(chunk({"content": "word "})) for _ in range(10)), 10)
    await a.finish()


async def one_message(a: Answer) -> None:
    await a.begin()
    await asyncio.sleep(TTFT)
    await a.delta(10, content="ten words")
    await a.finish()


async def pause(a: Answer) -> None:
    """A gap of 300 ms in the middle."""
    await a.begin()
    await asyncio.sleep(TTFT)
    for k in range(10):
        await asyncio.sleep(0.3 if k == 5 else ITL if k else 0)
        await a.delta(1, content="word ")
    await a.finish()


async def no_usage(a: Answer) -> None:
    await a.begin()
    async for k in paced(10):
        await a.delta(1, content="word ", finish="stop" if k == 9 else None)
    await a.finish(usage=False)


async def null_error(a: Answer) -> None:
    await a.begin()
    async for _ in paced(10):
        await a.raw(a.event(chunk({"content": "word "}) | {"error": None}), 1)
    await a.finish()


async def no_done(a: Answer) -> None:
    """Ends with a reason and the end of the body, but without [DONE]."""
    await a.begin()
    async for k in paced(10):
        await a.delta(1, content="word ", finish="stop" if k == 9 else None)
    await a.finish(usage=False, done=False)


async def until_close(a: Answer) -> None:
    """Neither a length nor chunks: the body ends with the connection."""
    a.chunked = False
    await a.begin("Connection: close\r\n")
    async for _ in paced(10):
        await a.delta(1, content="word ")
    await a.finish()
    a.writer.close()


async def left_open(a: Answer) -> None:
    """[DONE], and then nothing: the body is never ended."""
    await a.begin()
    async for _ in paced(10):
        await a.delta(1, content="word ")
    await a.finish(last=False)
    await asyncio.sleep(30)


async def error_midway(a: Answer) -> None:
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.raw(a.event({"error": {"message": "the engine is gone", "code": "engine_dead"}}))
    await a.finish(usage=False)


async def error_text(a: Answer) -> None:
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.raw(a.event({"error": "the engine is gone"}))
    await a.finish(usage=False)


async def cut(a: Answer) -> None:
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    a.writer.transport.abort()


async def cut_politely(a: Answer) -> None:
    """The body ends in order, the answer does not: no reason, no [DONE]."""
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.finish(usage=False, done=False)


async def hang(a: Answer) -> None:
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await asyncio.sleep(60)


async def endless(a: Answer) -> None:
    await a.begin()
    async for _ in paced(3000):
        await a.delta(1, content="word ")


async def nothing(a: Answer) -> None:
    await a.begin()
    await a.finish()


async def refuse(a: Answer, status: str, body: str, kind: str = "application/json", more: str = "") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    a.writer.write((head + body).encode())


async def busy(a: Answer) -> None:
    await refuse(a, "429 Too Many Requests", '{"error": {"message": "slow down"}}', more="Retry-After: 7\r\n")


async def unavailable(a: Answer) -> None:
    await refuse(a, "503 Service Unavailable", "upstream", kind="text/plain", more="Retry-After: 7\r\n")


async def whole(a: Answer) -> None:
    """A server that does not stream: one JSON document."""
    await refuse(a, "200 OK", json.dumps({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}))


async def whole_error(a: Answer) -> None:
    """An error under status 200, as some proxies have it."""
    await refuse(a, "200 OK", '{"error": {"message": "no such deployment"}}')


async def detail(a: Answer) -> None:
    """FastAPI's form of an error, with the prompt that it is about."""
    wrong = {"loc": ["body", "seed"], "msg": "not permitted", "input": "word " * 10_000}
    await refuse(a, "422 Unprocessable Entity", json.dumps({"detail": [wrong]}))


async def page(a: Answer) -> None:
    await refuse(a, "200 OK", "<html>welcome</html>", kind="text/html")


SCRIPTS: dict[str, Callable[[Answer], Awaitable[None]]] = {
    f.__name__: f
    for f in (
        plain, counted, several, several_counted, empty_first, reasoning, tools, comments, crlf, split, burst,
        one_message, pause, no_usage, null_error, no_done, until_close, left_open, error_midway, error_text, cut,
        cut_politely, hang, endless, nothing, busy, unavailable, whole, whole_error, detail, page,
        dialects.vllm, dialects.llama_cpp, dialects.ollama, dialects.zeros, dialects.prompt_only, dialects.deepseek,
        dialects.characters, dialects.mistral, dialects.error_object, oddities.shapeless,
        oddities.http_1_0, oddities.slow_head, oddities.nulls, oddities.fields, oddities.packed, oddities.packed_error,
        oddities.garbled, oddities.no_http, oddities.reset_first, oddities.closed_first, oddities.reset_after_head,
        oddities.too_short, oddities.moved, oddities.error_event, oddities.error_words, oddities.error_reason,
        oddities.held, oddities.loose, oddities.strings, oddities.marked, oddities.busy_until_close,
        oddities.error_until_close, oddities.no_events, oddities.error_unprintable, oddities.odd_reason,
        oddities.packed_badly, oddities.numbers, oddities.reset_last,
    )
}  # fmt: skip
