"""What the routers cost a token, and how fast a slot is free again when a client leaves through them."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from client import AsyncClient, Options
from loadtest.bench.cluster.pool import Routers, routed
from loadtest.bench.gateway import Round, SseTap, grpc_round
from loadtest.bench.process import Server
from loadtest.bench.streams import PROMPT
from loadtest.stats import percentiles_ms

STREAMS, REQUESTS, TOKENS, ROUNDS = 24, 2, 96, 3
LEAVES = 10  # clients that leave in mid-answer, over each transport
LIMIT_MS = 200
POLL_SECONDS = 0.01


def request(model: str, tokens: int) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    body = json.dumps(
        {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


async def sse_round(ports: Sequence[int], model: str) -> Round:
    """``STREAMS`` workers, dealt out over ``ports``."""
    seen, loop = Round(), asyncio.get_running_loop()

    async def worker(port: int) -> None:
        transport, tap = await loop.create_connection(SseTap, "127.0.0.1", port)
        for _ in range(REQUESTS):
            await tap.ask(transport, request(model, TOKENS), seen)
            seen.tokens += TOKENS
        tap.done.cancel()
        transport.close()

    start = time.perf_counter()
    await asyncio.gather(*(worker(ports[i % len(ports)]) for i in range(STREAMS)))
    seen.took = time.perf_counter() - start
    return seen


async def grpc_rounds(ports: Sequence[int], _: str) -> Round:
    """The same over gRPC."""
    each = await asyncio.gather(*(grpc_round(port, STREAMS // len(ports), REQUESTS, TOKENS) for port in ports))
    whole = Round(took=max(one.took for one in each))
    for one in each:
        whole.tokens += one.tokens
        whole.messages += one.messages
        whole.ttft += one.ttft
        whole.gaps += one.gaps
    return whole


async def per_token(servers: Sequence[Server], model: str) -> list[dict[str, Any]]:
    rows = []
    with routed(servers, "round_robin") as routers:
        for name, process, port, direct, run in (
            ("smg", "smg", routers.http, [s.ports["gateway"] for s in servers], sse_round),
            ("Envoy", "envoy", routers.grpc, [s.ports["grpc"] for s in servers], grpc_rounds),
        ):
            rows.append(await _compared(name, routers, process, port, direct, run, model))
    return rows


async def _compared(
    name: str, routers: Routers, process: str, port: int, direct: Sequence[int],
    run: Callable[[Sequence[int], str], Awaitable[Round]], model: str,
) -> dict[str, Any]:  # fmt: skip
    router = routers.router(process)
    await run([port], model)  # connections, caches
    straight, through, spent = [], [], 0.0
    for _ in range(ROUNDS):
        straight.append(await run(direct, model))
        before = sum(router.cpu_times()[:2])
        through.append(await run([port], model))
        spent += sum(router.cpu_times()[:2]) - before

    def median(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
        return statistics.median(of(each) for each in rounds)

    def added(of: Callable[[Round], Sequence[float]]) -> float:
        return round(1e3 * (median(through, lambda r: _p50(of(r))) - median(straight, lambda r: _p50(of(r)))), 2)

    return {
        "row": f"cost of {name}", "requests": STREAMS * REQUESTS * ROUNDS, "failed": 0,
        "router_cpu_ms_per_1k": round(spent / sum(r.tokens for r in through) * 1e6, 2),
        "ttft_added_ms": added(lambda r: r.ttft), "itl_added_ms": added(lambda r: r.gaps),
        "tokens_per_s_ratio": round(
            median(through, lambda r: r.tokens / r.took) / median(straight, lambda r: r.tokens / r.took), 3
        ),
    }  # fmt: skip


def _p50(seconds: Sequence[float]) -> float:
    return percentiles_ms(seconds, (50,))["p50"] / 1e3


async def leaving(servers: Sequence[Server], model: str) -> list[dict[str, Any]]:
    """Seconds from a client's leaving until no replica holds a slot for it. Gauges are renewed 20 times a second."""
    rows = []
    with routed(servers) as routers:
        for name, leave in (("smg", _leave_http), ("Envoy", _leave_grpc)):
            times = [await _until_free(servers, leave, routers, model) for _ in range(LEAVES)]
            rows.append(
                {
                    "row": f"client leaves through {name}", "requests": LEAVES,
                    "failed": sum(t * 1e3 > LIMIT_MS for t in times),
                    "free_p50_ms": round(1e3 * statistics.median(times)), "free_max_ms": round(1e3 * max(times)),
                }
            )  # fmt: skip
    return rows


async def _until_free(
    servers: Sequence[Server], leave: Callable[[Routers, str], Awaitable[float]], routers: Routers, model: str
) -> float:
    left = await leave(routers, model)
    while await asyncio.to_thread(_held, servers):
        if time.perf_counter() - left > 10:
            break
        await asyncio.sleep(POLL_SECONDS)
    return time.perf_counter() - left


def _held(servers: Sequence[Server]) -> bool:
    return any(server.metric("qwen_slots_used") for server in servers)


async def _leave_http(routers: Routers, model: str) -> float:
    """When it left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", routers.http)
    writer.write(request(model, 2000))
    while b'"content":' not in await reader.readline():
        continue
    await asyncio.sleep(0.3)
    writer.close()
    return time.perf_counter()


async def _leave_grpc(routers: Routers, _: str) -> float:
    client = AsyncClient(f"127.0.0.1:{routers.grpc}")
    async with client.stream(PROMPT, Options(max_tokens=2000, ignore_eos=True)) as stream:
        await stream.__anext__()
        await asyncio.sleep(0.3)
    left = time.perf_counter()
    asyncio.get_running_loop().call_later(8, lambda: asyncio.ensure_future(client.close()))
    return left
