"""`make bench-gateway`: what the web path costs. The same requests over gRPC and over SSE, in turn.

A simulated engine (one token per stream and step) stands behind the real Triton; N workers send their requests one
after another. gRPC and SSE rounds alternate in one run, and every figure is a median over the rounds. Columns:

    tokens/s            delivered, whole round
    TTFT p50/p99        request sent to first text, milliseconds
    ITL p50/p99         gaps between messages of a stream, milliseconds
    added TTFT/ITL      SSE minus gRPC, of the medians
    gateway ms/1k       CPU milliseconds of all gateway processes per 1,000 tokens
    two cores           tokens/s at which the gateway alone would fill two cores: 2 / (CPU seconds per token)
"""

from __future__ import annotations

import contract.program

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from client import kserve
from client.grpc_aio import AioChannel
from client.sequences import request_ids
from client.types import Options
from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.process import Server, started
from loadtest.bench.streams import PROMPT
from loadtest.stats import percentiles_ms

LOADS = {1: (20, 24), 32: (2, 192), 128: (2, 192)}  # streams: requests per worker, tokens per request


@dataclass
class Round:
    """What one round over one transport saw. Seconds."""

    tokens: int = 0
    took: float = 0.0
    gateway_cpu: float = 0.0
    messages: int = 0
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def message(self, now: float, sent: float, last: float) -> float:
        self.messages += 1
        (self.gaps if last else self.ttft).append(now - (last or sent))
        return now


class SseTap(asyncio.Protocol):
    """The cheapest client there can be: notes when data comes, and the end."""

    def __init__(self) -> None:
        self.seen: Round | None = None
        self.sent = self.last = 0.0
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        if b'"content":' in data and self.seen:
            self.last = self.seen.message(time.perf_counter(), self.sent, self.last)
        self._tail = (self._tail + data)[-600:]
        if self._tail.endswith(b"0\r\n\r\n") and not self.done.done():
            self.done.set_result(self._tail)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the gateway closed the connection"))

    async def ask(self, transport: asyncio.Transport, request: bytes, seen: Round) -> None:
        self.seen, self.last, self._tail = seen, 0.0, b""
        self.done = asyncio.get_running_loop().create_future()
        self.sent = time.perf_counter()
        transport.write(request)
        end = await self.done
        if b"[DONE]" not in end or b'"finish_reason":"length"' not in end:
            raise RuntimeError(f"an answer did not end as it should: {end[-200:]!r}")


def http_request(tokens: int) -> bytes:
    body = json.dumps(
        {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "ignore_eos": True, "stream": True}
    ).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def sse_round(port: int, streams: int, requests: int, tokens: int) -> Round:
    seen, request, loop = Round(), http_request(tokens), asyncio.get_running_loop()

    async def worker() -> None:
        transport, protocol = await loop.create_connection(SseTap, "127.0.0.1", port)
        for _ in range(requests):
            await protocol.ask(transport, request, seen)
            seen.tokens += tokens
        protocol.done.cancel()
        transport.close()

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(streams)))
    seen.took = time.perf_counter() - start
    return seen


async def grpc_round(port: int, streams: int, requests: int, tokens: int) -> Round:
    seen, new_id, channel = Round(), request_ids(), AioChannel(f"127.0.0.1:{port}")
    messages, options = [{"role": "user", "content": PROMPT}], Options(max_tokens=tokens, ignore_eos=True)

    async def worker() -> None:
        for _ in range(requests):
            sent, last, finish = time.perf_counter(), 0.0, ""
            async for message in channel.call(kserve.infer_request(new_id(), messages, options, stream=True)):
                if got := kserve.output(message):
                    last = seen.message(time.perf_counter(), sent, last)
                    finish = got.finish or ""
            if finish != "length":
                raise RuntimeError(f"an answer ended with {finish!r}")
            seen.tokens += tokens

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(streams)))
    seen.took = time.perf_counter() - start
    await channel.close()
    return seen


def row(streams: int, transport: str, rounds: list[Round]) -> dict[str, Any]:
    def median(of: Callable[[Round], float]) -> float:
        return round(statistics.median([of(r) for r in rounds]), 2)

    speeds = [r.tokens / r.took for r in rounds]
    return {
        "streams": streams, "transport": transport, "rounds": len(rounds),
        "tokens_per_s": round(statistics.median(speeds)), "tokens_per_s_min": round(min(speeds)),
        "tokens_per_s_max": round(max(speeds)),
        "tokens_per_message": median(lambda r: r.tokens / r.messages),
        "ttft_p50_ms": median(lambda r: percentiles_ms(r.ttft)["p50"]),
        "ttft_p99_ms": median(lambda r: percentiles_ms(r.ttft)["p99"]),
        "itl_p50_ms": median(lambda r: percentiles_ms(r.gaps)["p50"]),
        "itl_p99_ms": median(lambda r: percentiles_ms(r.gaps)["p99"]),
        "gateway_cpu_ms_per_1k": median(lambda r: r.gateway_cpu / r.tokens * 1e6),
    }  # fmt: skip


def compared(direct: dict[str, Any], web: dict[str, Any]) -> dict[str, Any]:
    """The SSE row with its difference to gRPC."""
    cost = web["gateway_cpu_ms_per_1k"]
    return web | {
        "ttft_added_ms": round(web["ttft_p50_ms"] - direct["ttft_p50_ms"], 2),
        "itl_added_ms": round(web["itl_p50_ms"] - direct["itl_p50_ms"], 2),
        "tokens_per_s_ratio": round(web["tokens_per_s"] / direct["tokens_per_s"], 3),
        "tokens_per_s_two_cores": round(2e6 / cost) if cost else None,
    }


async def measure(arguments: argparse.Namespace, server: Server) -> list[dict[str, Any]]:
    rows = []
    grpc, web = server.ports["grpc"], server.ports["gateway"]
    for streams in arguments.streams:
        requests, tokens = LOADS.get(streams, (2, 128))
        await sse_round(web, streams, 1, 8)  # connections, imports, caches
        await grpc_round(grpc, streams, 1, 8)
        seen: dict[str, list[Round]] = {"grpc": [], "sse": []}
        for _ in range(arguments.rounds):
            seen["grpc"].append(await grpc_round(grpc, streams, requests, tokens))
            before = server.cpu_seconds("serving.gateway")
            over_sse = await sse_round(web, streams, requests, tokens)
            over_sse.gateway_cpu = server.cpu_seconds("serving.gateway") - before
            seen["sse"].append(over_sse)
        direct = row(streams, "grpc", seen["grpc"])
        rows += [direct, compared(direct, row(streams, "sse", seen["sse"]))]
    return rows


COLUMNS = {
    "streams": "streams", "transport": "transport", "tokens_per_s": "tokens/s", "tokens_per_message": "tokens/message",
    "ttft_p50_ms": "TTFT p50", "ttft_p99_ms": "TTFT p99", "itl_p50_ms": "ITL p50", "itl_p99_ms": "ITL p99",
    "ttft_added_ms": "added TTFT", "itl_added_ms": "added ITL", "gateway_cpu_ms_per_1k": "gateway ms/1k",
    "tokens_per_s_two_cores": "two cores",
}  # fmt: skip


def main() -> int:
    parser = Arguments(prog="bench-gateway", description="gRPC direct against SSE through the gateway")
    parser.add_argument("--streams", type=count, nargs="+", default=list(LOADS))
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--step-ms", type=positive, default=10.0)
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_gateway.json")
    arguments = parser.parse_args()

    def take() -> list[result.Row]:
        with started("--runtime", "simulated", "--step-ms", str(arguments.step_ms), gateway=True) as server:
            return uvloop.run(measure(arguments, server))

    title = "gRPC direct against SSE through the gateway (medians)"
    return result.run("bench-gateway", arguments, title, take, columns=COLUMNS, engine="simulated")


if __name__ == "__main__":
    sys.exit(main())
