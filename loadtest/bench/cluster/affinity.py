"""Do conversations come back to the replica with their cache? smg's cache_aware against round_robin."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from loadtest.bench.cluster.asks import Asker, Outcome, asking, failed, latency
from loadtest.bench.cluster.pool import routed
from loadtest.bench.process import Server

GROUPS, PER_GROUP, TURNS = 6, 4, 5  # system prompts, conversations with each, questions in each
SYSTEM, QUESTION, ANSWER = 100, 20, 16  # numbers (about seven tokens each), numbers, tokens
PREFILL_MS = 0.5  # per token: 2,000 prompt tokens/s
POLICIES = ("round_robin", "cache_aware")


def numbers(rng: random.Random, count: int) -> str:
    return " ".join(str(rng.randrange(10**6)) for _ in range(count))


async def conversation(asker: Asker, system: str, rng: random.Random) -> list[Outcome]:
    messages, seen = [{"role": "system", "content": system}], []
    for _ in range(TURNS):
        messages.append({"role": "user", "content": numbers(rng, QUESTION)})
        seen.append(await asker.http(messages, ANSWER))
        messages.append({"role": "assistant", "content": seen[-1].text})
        await asyncio.sleep(rng.uniform(0.3, 1.0))
    return seen


async def _all(asker: Asker, policy: str) -> list[Outcome]:
    """Prompts that no replica has read under another policy."""
    systems = [numbers(random.Random(f"{policy} {group}"), SYSTEM) for group in range(GROUPS)]
    talks = [
        conversation(asker, systems[i % GROUPS], random.Random(f"{policy} talk {i}")) for i in range(GROUPS * PER_GROUP)
    ]
    return [outcome for talk in await asyncio.gather(*talks) for outcome in talk]


def answered(servers: Sequence[Server]) -> list[int]:
    """Requests that each replica has finished so far."""
    return [int(server.metric("qwen_streams_finished_total") or 0) for server in servers]


async def measure(servers: Sequence[Server], model: str) -> list[dict[str, Any]]:
    rows = []
    for policy in POLICIES:
        before = answered(servers)
        with routed(servers, policy) as routers:
            async with asking(routers.http, routers.grpc, model) as asker:
                outcomes = await _all(asker, policy)
            await asyncio.sleep(1)  # the replicas' counters are renewed four times a second
        share = [after - b for after, b in zip(answered(servers), before, strict=True)]
        rows.append(
            {
                "row": f"conversations, {policy}", "requests": len(outcomes), "failed": len(failed(outcomes)),
                "hit_rate": round(sum(o.cached for o in outcomes) / max(1, sum(o.prompt for o in outcomes)), 3),
                "spread": round(max(share) * len(share) / max(1, sum(share)), 2), "by_replica": share,
                **latency(outcomes),
            }
        )  # fmt: skip
    return rows
