"""`make bench-fairness`: what one tenant's flood costs another tenant's single requests.

A simulated engine with few places stands behind the real Triton and gateway. The flood is `--requests` at once; the
other tenant sends one request per second meanwhile. Rows:

    alone           no flood
    one tenant      both send the same `user`: they wait in one queue, first come first served
    two tenants     two values of `user`: tokens are shared

Columns: TTFT of the single requests in milliseconds; tokens/s of all together, and what the flood took.
"""

from __future__ import annotations

import contract.program

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.gateway import Round, SseTap
from loadtest.bench.process import started
from loadtest.bench.streams import PROMPT
from loadtest.stats import percentiles_ms

FLOODER, OTHER = "flooder", "other"
ROWS = (("alone", "", OTHER), ("one tenant", OTHER, OTHER), ("two tenants", FLOODER, OTHER))


def http_request(user: str, tokens: int) -> bytes:
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": PROMPT}], "max_tokens": tokens, "ignore_eos": True, "stream": True,
            "user": user,
        }
    ).encode()  # fmt: skip
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b"
    return head % (len(body), body)


async def one(port: int, user: str, tokens: int, seen: Round) -> None:
    transport, tap = await asyncio.get_running_loop().create_connection(SseTap, "127.0.0.1", port)
    try:
        await tap.ask(transport, http_request(user, tokens), seen)
        seen.tokens += tokens
    finally:
        transport.close()


async def singles(port: int, user: str, arguments: argparse.Namespace, seen: Round, until: asyncio.Event) -> None:
    """One request per second, whether the one before has ended or not."""
    tasks: list[asyncio.Task[None]] = []
    while not until.is_set():
        tasks.append(asyncio.create_task(one(port, user, arguments.tokens, seen)))
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)


async def measure(port: int, name: str, flooder: str, other: str, arguments: argparse.Namespace) -> dict[str, Any]:
    flood, single, over = Round(), Round(), asyncio.Event()
    begin = time.perf_counter()
    others = asyncio.create_task(singles(port, other, arguments, single, over))
    await asyncio.sleep(arguments.settle)
    flooded = time.perf_counter()
    if flooder:
        lengths = random.Random(0)
        asked = [lengths.randint(arguments.tokens // 2, arguments.tokens * 3 // 2) for _ in range(arguments.requests)]
        await asyncio.gather(*(one(port, flooder, tokens, flood) for tokens in asked))
    took = time.perf_counter() - flooded
    over.set()
    await others
    figures = percentiles_ms(single.ttft, (50, 90))
    return {
        "row": name, "singles": len(single.ttft), "ttft_p50_ms": round(figures["p50"]),
        "ttft_p90_ms": round(figures["p90"]), "ttft_max_ms": round(max(single.ttft) * 1e3),
        "tokens_per_s": round((flood.tokens + single.tokens) / (time.perf_counter() - begin)),
        "flood_s": round(took, 1) if flooder else None,
    }  # fmt: skip


def main() -> int:
    parser = Arguments(prog="bench-fairness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=count, default=500, help="of the flood, all at once")
    parser.add_argument("--tokens", type=count, default=64, help="per answer; the flood's spread by half of it")
    parser.add_argument("--places", type=count, default=32, help="sequences the engine decodes at once")
    parser.add_argument("--step-ms", type=positive, default=15.0)
    parser.add_argument("--settle", type=positive, default=3.0, help="seconds before the flood")
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_fairness.json")
    arguments = parser.parse_args()
    engine = ("--runtime", "simulated", "--step-ms", str(arguments.step_ms), "--max-streams", str(arguments.places))

    def take() -> list[result.Row]:
        with started(*engine, gateway=True) as server:
            return [uvloop.run(measure(server.ports["gateway"], *row, arguments)) for row in ROWS]

    return result.run("bench-fairness", arguments, "one tenant floods", take)


if __name__ == "__main__":
    sys.exit(main())
