"""What servers, proxies and networks do beneath the events: encodings, interim answers, broken framing, resets."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import zlib

from tests.loadtest.answer import TTFT, Answer, chunk, paced


async def http_1_0(a: Answer) -> None:
    """No chunks, no length, no keep-alive."""
    a.chunked = False
    a.writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    async for _ in paced(10):
        await a.delta(1, content="word ")
    await a.finish()
    a.writer.close()


async def slow_head(a: Answer) -> None:
    """The head comes byte by byte, after an interim answer."""
    a.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n")
    for byte in b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n":
        a.writer.write(bytes([byte]))
        await asyncio.sleep(0.001)
    async for _ in paced(10):
        await a.delta(1, content="word ")
    await a.finish()


async def nulls(a: Answer) -> None:
    """Each field that may be missing is there and null."""
    empty = {"role": None, "content": None, "tool_calls": None, "reasoning_content": None}
    await a.begin()
    await a.raw(a.event({"choices": None, "usage": None, "error": None}))
    await a.raw(a.event({"choices": [{"index": 0, "delta": None, "finish_reason": None}]}))
    async for _ in paced(10):
        await a.delta(1, **(empty | {"content": "word "}))
    await a.finish()


async def fields(a: Answer) -> None:
    """No space behind ``data:``, JSON over several lines, other fields of an event."""
    await a.begin()
    async for _ in paced(10):
        text = json.dumps(chunk({"content": "word "}), indent=1).replace("\n", "\ndata:")
        await a.raw(f"id: 7\nretry: 10\nevent: message\ndata:{text}\n\n".encode(), 1)
    await a.finish()


async def packed(a: Answer) -> None:
    """gzip, which nobody asked for."""
    squeeze = zlib.compressobj(wbits=31)

    def pressed(data: bytes) -> bytes:
        return squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)

    await a.begin("Content-Encoding: gzip\r\n")
    async for _ in paced(10):
        await a.raw(pressed(a.event(chunk({"content": "word "}))), 1)
    await a.raw(pressed(a.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 10}})))
    await a.raw(pressed(a.event("[DONE]")) + squeeze.flush())
    a.writer.write(b"0\r\n\r\n")


async def packed_error(a: Answer) -> None:
    body = gzip.compress(b'{"error": {"message": "slow down"}}')
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    a.writer.write(head.encode() + body)


async def garbled(a: Answer) -> None:
    """Chunks that are none."""
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    a.writer.write(b"zz\r\nnot a chunk\r\n")
    await a.writer.drain()
    await asyncio.sleep(30)


async def shapeless(a: Answer) -> None:
    """JSON, but no chunk of a chat."""
    await a.begin()
    await a.delta(1, content="word ")
    await a.raw(a.event({"choices": [None]}))
    await a.finish()


async def no_http(a: Answer) -> None:
    a.writer.write(b"220 mail.example ESMTP\r\n")
    await a.writer.drain()


async def reset_first(a: Answer) -> None:
    """Nothing but a reset."""
    await asyncio.sleep(TTFT)
    a.writer.transport.abort()


async def closed_first(a: Answer) -> None:
    await asyncio.sleep(TTFT)
    a.writer.close()


async def reset_after_head(a: Answer) -> None:
    await a.begin()
    await a.writer.drain()
    await asyncio.sleep(TTFT)
    a.writer.transport.abort()


async def too_short(a: Answer) -> None:
    """Less than the Content-Length says."""
    a.chunked = False
    a.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n")
    async for _ in paced(3):
        await a.delta(1, content="word ")
    a.writer.close()


async def moved(a: Answer) -> None:
    a.writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v2/chat/completions\r\nContent-Length: 0\r\n\r\n")


async def error_event(a: Answer) -> None:
    """The error is in the event's name, and [DONE] follows."""
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.raw(b'event: error\ndata: {"message": "the engine is gone", "code": 503}\n\n')
    await a.finish(usage=False)


async def error_words(a: Answer) -> None:
    """An error that is no JSON."""
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.raw(b"data: Internal Server Error\n\n")
    await a.finish(usage=False)


async def error_reason(a: Answer) -> None:
    """OpenRouter's: a finish_reason of error beside an error."""
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.raw(a.event(chunk({"content": ""}, "error") | {"error": {"code": 502, "message": "the engine is gone"}}))
    await a.finish(usage=False)


async def held(a: Answer) -> None:
    """Tokens without text at first (a parser holds them back), and text without tokens at the end."""
    await a.begin()
    async for k in paced(10):
        await a.delta(1, usage=True, content="" if k < 3 else "word ")
    await a.delta(0, usage=True, content="held back")
    await a.finish()


async def loose(a: Answer) -> None:
    """JSON as Python writes it: NaN, and characters that are cut in halves between events. A space behind [DONE]."""
    await a.begin()
    async for k in paced(10):
        half = chunk(
            {"content": "\U0001f600".encode("utf-16-be")[2 * (k % 2) :][:2].decode("utf-16-be", "surrogatepass")}
        )
        await a.raw(f"data: {json.dumps(half | {'logprob': float('nan')})}\n\n".encode(), 1)
    await a.raw(a.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 10}}))
    await a.raw(a.event("[DONE] "))
    await a.finish(usage=False, done=False)


async def strings(a: Answer) -> None:
    """Counts as strings, and -1 for what is not known yet."""
    await a.begin()
    async for _ in paced(10):
        await a.raw(a.event(chunk({"content": "word "}, None, -1)), 1)
    details = {"cached_tokens": "3"}
    usage = {"prompt_tokens": "7", "completion_tokens": "10", "prompt_tokens_details": details}
    await a.raw(a.event({"choices": [], "usage": usage}))
    await a.finish(usage=False)


async def marked(a: Answer) -> None:
    """A byte order mark before the first event."""
    await a.begin()
    async for k in paced(10):
        await a.raw(b"\xef\xbb\xbf" * (k == 0) + a.event(chunk({"content": "word "})), 1)
    await a.finish()


async def busy_until_close(a: Answer) -> None:
    """A refusal whose body ends with the connection."""
    a.writer.write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nno backend")
    a.writer.close()


async def error_until_close(a: Answer) -> None:
    a.writer.write(b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"error": {"message": "no model"}}')
    a.writer.close()


async def no_events(a: Answer) -> None:
    """No empty line between the events, so that there are none."""
    await a.begin()
    for _ in range(3):
        await a.raw(b'data: {"choices": []}\n')
    await a.finish(usage=False, done=False)


async def error_unprintable(a: Answer) -> None:
    """Line ends, a terminal's control sequence and half a character in what an error says, and in its code."""
    await a.begin()
    await a.delta(1, content="word ")
    error = {"message": "\x1b[2Jgone\r\nand \ud83d lost\0\u202e", "code": "c\ud83d\x1b31m\n"}
    await a.raw(f"data: {json.dumps({'error': error})}\n\n".encode())
    await a.finish(usage=False)


async def odd_reason(a: Answer) -> None:
    """A finish reason with half a character."""
    await a.begin()
    async for k in paced(10):
        event = chunk({"content": "word "}, "stop\ud83d" if k == 9 else None)
        await a.raw(f"data: {json.dumps(event)}\n\n".encode(), 1)
    await a.finish()


async def packed_badly(a: Answer) -> None:
    await a.begin("Content-Encoding: gzip\r\n")
    await a.delta(0, content="word ")


async def numbers(a: Answer) -> None:
    """Content that is no text."""
    await a.begin()
    await a.delta(0, content=7)
    await a.finish()


async def reset_last(a: Answer) -> None:
    """The answer's end, and then a reset."""
    await a.begin()
    async for k in paced(10):
        await a.delta(1, usage=True, content="word ", finish="stop" if k == 9 else None)
    await asyncio.sleep(0.02)
    a.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    a.writer.transport.abort()
