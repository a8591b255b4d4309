"""One replica is slow, is dead, drains, or is full: what the clients of the others notice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

from client import AsyncClient, Options
from loadtest.bench.cluster.affinity import answered
from loadtest.bench.cluster.asks import Asker, Outcome, asking, failed, latency, open_loop
from loadtest.bench.cluster.pool import kill, routed
from loadtest.bench.process import Server

RATE, SECONDS = 8.0, 12.0  # requests/s, half over each transport
TOKENS = 48


async def mixed(asker: Asker, rate: float = RATE, seconds: float = SECONDS) -> list[Outcome]:
    def ask(i: int) -> Any:
        return (asker.http if i % 2 else asker.grpc)(f"Story {i} of the river and its bridge", TOKENS, i)

    return await open_loop(ask, rate, seconds)


async def slow(servers: Sequence[Server], model: str, name: str) -> dict[str, Any]:
    """The open loop; the last of ``servers`` may be slower than the others."""
    before = answered(servers)
    with routed(servers) as routers:
        async with asking(routers.http, routers.grpc, model) as asker:
            outcomes = await mixed(asker)
        await asyncio.sleep(1)
    share = [after - b for after, b in zip(answered(servers), before, strict=True)]
    lost = failed(outcomes)
    return {"row": name, "requests": len(outcomes), "failed": len(lost), "by_replica": share, **latency(outcomes),
            "errors": lost[:3]}  # fmt: skip


async def drained(servers: Sequence[Server], model: str) -> dict[str, Any]:
    """A replica gets SIGTERM a third of the way."""
    with routed(servers) as routers:
        async with asking(routers.http, routers.grpc, model) as asker:
            load = asyncio.ensure_future(mixed(asker))
            await asyncio.sleep(SECONDS / 3)
            leaving = servers[-1].popen
            assert leaving is not None
            leaving.send_signal(signal.SIGTERM)
            outcomes = await load
    lost = failed(outcomes)
    return {"row": "one of three drains", "requests": len(outcomes), "failed": len(lost), **latency(outcomes),
            "errors": lost[:3]}  # fmt: skip


async def dead(
    servers: Sequence[Server], model: str, streams: int, tokens: int, *, whole: bool, name: str
) -> dict[str, Any]:
    """SIGKILL to the last of ``servers`` while ``streams`` answers run, half over each transport; then new requests."""
    with routed(servers) as routers:
        async with asking(routers.http, routers.grpc, model) as asker:
            calm = await _crowd(asker, streams, tokens)
            again = asyncio.ensure_future(_crowd(asker, streams, tokens))
            await asyncio.sleep(max(1.5, 0.4 * max(o.took for o in calm)))
            at_home = int(servers[-1].metric("vllm:num_requests_running") or 0)
            kill(servers[-1], whole=whole)
            after = await mixed(asker, RATE, 6)
            disturbed = await again
    changed = [
        (was.text, was.tokens) != (now.text, now.tokens)
        for was, now in zip(calm, disturbed, strict=True) if not now.error
    ]  # fmt: skip
    return {
        "row": name, "requests": len(disturbed), "on_the_dead": at_home,
        "failed_http": len(failed(disturbed[1::2])), "failed_grpc": len(failed(disturbed[::2])),
        "changed": sum(changed), "longest_s": round(max(o.took for o in disturbed), 1),
        "new_requests": len(after), "new_failed": len(failed(after)), "errors": (failed(disturbed) + failed(after))[:3],
    }  # fmt: skip


async def _crowd(asker: Asker, streams: int, tokens: int) -> list[Outcome]:
    """Greedy and seeded answers in turn would be one on the simulated engine, so all are seeded."""
    return await asyncio.gather(
        *((asker.http if i % 2 else asker.grpc)(f"Story {i // 2}", tokens, i // 2) for i in range(streams))
    )


async def full(servers: Sequence[Server], model: str, places: int) -> dict[str, Any]:
    """The first replica takes no more (asked directly), the second has room: a 429 must not reach the client."""
    with routed(servers, "round_robin") as routers:
        busy = AsyncClient(f"127.0.0.1:{servers[0].ports['grpc']}")
        fill = [asyncio.ensure_future(_read(busy, i)) for i in range(places)]
        await asyncio.sleep(1)
        async with asking(routers.http, routers.grpc, model) as asker:
            outcomes = await _one_by_one(asker)
        for task in fill:
            task.cancel()
        await asyncio.gather(*fill, return_exceptions=True)
        await busy.close()
    lost = failed(outcomes)
    return {"row": "one of two is full", "requests": len(outcomes), "failed": len(lost), **latency(outcomes),
            "errors": lost[:3]}  # fmt: skip


async def _read(client: AsyncClient, number: int) -> None:
    async for _ in client.stream(f"Filler {number}", Options(max_tokens=4000, seed=number, ignore_eos=True)):
        continue


async def _one_by_one(asker: Asker) -> list[Outcome]:
    return [await (asker.http if i % 2 else asker.grpc)(f"Question {i}", 4, i) for i in range(24)]
