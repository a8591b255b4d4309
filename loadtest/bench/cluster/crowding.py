"""``make capacity``'s formula held against pools: at the rate that it allows, how many requests find no free place?

A replica has ``PLACES`` places and a long step, so that the machine of the benchmark is not what is measured. A request
that gets no place at once has its first token a step late or later. Fifteen per cent below the rate that the formula
allows for ``RISK``, fewer than that must be late, fifteen per cent above it more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from client import AsyncClient, Options
from loadtest.bench.cluster.asks import TIMEOUT
from loadtest.bench.cluster.pool import routed
from loadtest.bench.process import Server
from loadtest.capacity import ReplicaLimit, overload, rate_of

PLACES, STEP_MS, TOKENS = 4, 150, 16
ANSWER = TOKENS * STEP_MS / 1e3  # seconds
LATE = 2.3 * STEP_MS / 1e3  # one that finds a place has its first token at the end of the next step
LIMIT = ReplicaLimit(PLACES / ANSWER, ANSWER)
RISK = 0.1
SECONDS, REQUESTS = 40.0, 150  # both at least
OFF = (0.85, 1.15)


async def measure(servers: Sequence[Server]) -> list[dict[str, Any]]:
    allowed = rate_of(len(servers), LIMIT, RISK)
    rows = []
    with routed(servers) as routers:
        for factor in OFF:
            rate = factor * allowed
            late, requests = await _late_share(routers.grpc, rate)
            rows.append({
                "row": f"{len(servers)} replicas, {factor:g} × the rate allowed", "requests": requests, "failed": 0,
                "rate": round(rate, 2), "late": round(late, 3),
                "expected_late": round(overload(rate, len(servers), LIMIT), 3),
            })  # fmt: skip
    return rows


async def _late_share(port: int, rate: float) -> tuple[float, int]:
    """Poisson arrivals at ``rate``; the first answers, which meet an empty pool, are not counted."""
    draw, loop = random.Random(17), asyncio.get_running_loop()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        begin = at = loop.time()
        tasks: list[tuple[float, asyncio.Task[float]]] = []
        while (at := at + draw.expovariate(rate)) < begin + ANSWER + max(SECONDS, REQUESTS / rate):
            await asyncio.sleep(at - loop.time())
            tasks.append((at, asyncio.ensure_future(_first_token(client, len(tasks)))))
        first = await asyncio.wait_for(asyncio.gather(*(task for _, task in tasks)), TIMEOUT)
    counted = [ttft > LATE for (at, _), ttft in zip(tasks, first, strict=True) if at > begin + ANSWER]
    return sum(counted) / len(counted), len(counted)


async def _first_token(client: AsyncClient, number: int) -> float:
    loop = asyncio.get_running_loop()
    begin, first = loop.time(), 0.0
    async for _ in client.stream(f"Story {number}", Options(max_tokens=TOKENS, seed=number, ignore_eos=True)):
        first = first or loop.time() - begin
    return first
