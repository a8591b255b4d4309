"""One scripted answer on its way: what is written to the connection, and when its tokens really left."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

TTFT, ITL = 0.060, 0.020  # seconds

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@dataclass
class Answer:
    """One answer; ``sent`` gets (before, after, tokens) of each write that completes a message with tokens."""

    writer: asyncio.StreamWriter
    request: dict[str, Any]
    script: str
    arrived: float
    chunked: bool = True
    end: str = "\n"
    sent: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(tokens for _, _, tokens in self.sent)

    async def raw(self, data: bytes, tokens: int = 0) -> None:
        """``data`` leaves at once; with ``tokens`` it completes a message that brings them."""
        before = time.monotonic()
        self.writer.write(b"%x\r\n" % len(data) + data + b"\r\n" if self.chunked else data)
        if tokens:
            self.sent.append((before, time.monotonic(), tokens))
        await self.writer.drain()

    def event(self, body: dict[str, Any] | str) -> bytes:
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        return f"data: {text}{self.end}{self.end}".encode()

    async def delta(self, tokens: int, usage: bool = False, finish: str | None = None, **delta: Any) -> None:
        await self.raw(self.event(chunk(delta, finish, self.tokens + tokens if usage else None)), tokens)

    async def begin(self, more: str = "") -> None:
        more += "Transfer-Encoding: chunked\r\n" if self.chunked else ""
        self.writer.write(f"{HEAD}{more}\r\n".encode())

    async def finish(self, usage: bool = True, done: bool = True, last: bool = True) -> None:
        if usage:
            total = {"prompt_tokens": 7, "completion_tokens": self.tokens}
            await self.raw(self.event({"choices": [], "usage": total}))
        if done:
            await self.raw(self.event("[DONE]"))
        if last and self.chunked:
            self.writer.write(b"0\r\n\r\n")


async def paced(count: int) -> AsyncIterator[int]:
    """0, 1, … at TTFT and then every ITL, by the clock and without drift."""
    start = time.monotonic()
    for k in range(count):
        await asyncio.sleep(max(0.0, start + TTFT + k * ITL - time.monotonic()))
        yield k


def chunk(delta: dict[str, Any], finish: str | None = None, count: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return found if count is None else found | {"usage": {"prompt_tokens": 7, "completion_tokens": count}}
