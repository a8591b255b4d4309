"""One request through a router, and what came of it; both transports alike."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from client import AsyncClient, Options, Retry
from client.errors import ClientError
from loadtest.stats import percentiles_ms

TIMEOUT = 120.0


@dataclass
class Outcome:
    """``error`` is empty for a whole answer. Seconds."""

    error: str = ""
    ttft: float = 0.0
    took: float = 0.0
    text: str = ""
    tokens: int = 0
    prompt: int = 0
    cached: int = 0


class Asker:
    """Asks at the two addresses of a cluster."""

    def __init__(self, http: int, grpc: int, model: str) -> None:
        self._url, self._model = f"http://127.0.0.1:{http}", model
        self._web = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=None))
        # A full queue is an error inside an OK stream: Envoy does not see it, and sends every second try to a full one
        self._grpc = AsyncClient(f"127.0.0.1:{grpc}", retry=Retry(attempts=8))

    async def http(self, prompt: str | list[dict[str, str]], tokens: int, seed: int = 1) -> Outcome:
        body: dict[str, Any] = {
            "model": self._model, "max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        kind = "completions" if isinstance(prompt, str) else "chat/completions"
        body["prompt" if isinstance(prompt, str) else "messages"] = prompt
        seen, begin = Outcome(error="it ended early"), time.perf_counter()
        try:
            async with self._web.stream("POST", f"{self._url}/v1/{kind}", json=body) as answer:
                if answer.status_code != 200:
                    seen.error = f"HTTP {answer.status_code}: {(await answer.aread())[:200].decode(errors='replace')}"
                    return seen
                async for line in answer.aiter_lines():
                    _event(line, seen, begin)
        except (httpx.HTTPError, ValueError) as error:
            seen.error = repr(error)
        seen.took = time.perf_counter() - begin
        return seen

    async def grpc(self, prompt: str | list[dict[str, str]], tokens: int, seed: int = 1) -> Outcome:
        seen, begin = Outcome(), time.perf_counter()
        try:
            async for chunk in self._grpc.stream(prompt, Options(max_tokens=tokens, seed=seed, ignore_eos=True)):
                seen.ttft = seen.ttft or time.perf_counter() - begin
                seen.text += chunk.text
                seen.tokens, seen.prompt, seen.cached = (
                    chunk.completion_tokens,
                    chunk.prompt_tokens,
                    chunk.cached_tokens,
                )
        except ClientError as error:
            seen.error = repr(error)
        seen.took = time.perf_counter() - begin
        return seen

    async def close(self) -> None:
        await self._web.aclose()
        await self._grpc.close()


def _event(line: str, seen: Outcome, begin: float) -> None:
    if line == "data: [DONE]":
        seen.error = "" if seen.error == "it ended early" else seen.error
    if not line.startswith("data: {"):
        return
    event = json.loads(line[6:])
    if "error" in event:
        seen.error = str(event["error"].get("message"))
    for choice in event.get("choices", ()):
        piece = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        if piece and not seen.ttft:
            seen.ttft = time.perf_counter() - begin
        seen.text += piece
    if usage := event.get("usage"):
        seen.tokens, seen.prompt = usage["completion_tokens"], usage["prompt_tokens"]
        seen.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


@asynccontextmanager
async def asking(http: int, grpc: int, model: str) -> AsyncIterator[Asker]:
    asker = Asker(http, grpc, model)
    try:
        yield asker
    finally:
        await asker.close()


async def open_loop(ask: Callable[[int], Awaitable[Outcome]], rate: float, seconds: float) -> list[Outcome]:
    """``ask(i)`` every ``1 / rate`` seconds, whether those before have ended or not."""
    begin, tasks = time.perf_counter(), []
    for i in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begin + i / rate - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(i)))
    return await asyncio.gather(*tasks)


def failed(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.error for outcome in outcomes if outcome.error]


def latency(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Milliseconds, of whole answers."""
    good = [outcome for outcome in outcomes if not outcome.error]
    if not good:
        return {}
    ttft, took = percentiles_ms([o.ttft for o in good], (50, 95)), percentiles_ms([o.took for o in good], (50, 95))
    return {
        "ttft_p50_ms": round(ttft["p50"]), "ttft_p95_ms": round(ttft["p95"]),
        "answer_p50_ms": round(took["p50"]), "answer_p95_ms": round(took["p95"]),
    }  # fmt: skip
