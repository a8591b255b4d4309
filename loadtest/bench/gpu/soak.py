"""Minutes of mixed load on a running server: chats, long prompts, guided answers, cancellations, bad requests.

``python -m loadtest.bench.gpu.soak --grpc HOST:PORT --metrics URL --seconds 600 --pid LAUNCHER_PID --out FILE``
Exit 1 when a good request failed, a bad one was accepted, or streams, slots or KV blocks stay in use afterwards.
"""

from __future__ import annotations

import contract.program

import argparse
import asyncio
import json
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from client import NO_RETRY, AsyncClient, ClientError, Options
from client.errors import Cancelled, InvalidRequest
from loadtest import prometheus
from loadtest.arguments import Arguments, count, positive
from loadtest.bench.gpu.client import BenchTarget, vanish
from loadtest.bench.process import memory_mib, tree

log = logging.getLogger("soak")
WORDS = [
    "river",
    "stone",
    "engine",
    "window",
    "silver",
    "morning",
    "paper",
    "bridge",
    "garden",
    "copper",
    "winter",
    "signal",
    "harbor",
    "candle",
    "forest",
]
SAMPLE_SECONDS = 5.0
SETTLE_SECONDS = 5.0
FREE = ("vllm:num_requests_running", "vllm:num_requests_waiting", "qwen_kv_blocks_used", "qwen_slots_used")
BAD = {
    "temperature": Options(temperature=-1.0),
    "top_p": Options(top_p=1.5),
    "max_tokens": Options(max_tokens=10_000_000),
    "grammar": Options(guide_type="regex", guide="[0-9"),
    "schema": Options(guide_type="json_schema", guide="{nope"),
    "guide": Options(guide_type="poem", guide="x"),
    "logprobs": Options(logprobs=True, top_logprobs=500),
}
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
Action = Callable[["Soak", random.Random], Awaitable[str]]


def text(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def options(rng: random.Random) -> Options:
    """Ordinary settings, some of them unusual."""
    chosen = Options(max_tokens=rng.randint(8, 300), seed=rng.randrange(2**63), ignore_eos=rng.random() < 0.5)
    kind = rng.randrange(6)
    if kind == 0:
        return replace(chosen, temperature=0.0)
    if kind == 1:
        return replace(chosen, temperature=1.2, top_k=50, min_p=0.02, presence_penalty=0.5)
    if kind == 2:
        return replace(chosen, logprobs=True, top_logprobs=rng.randint(0, 5))
    if kind == 3:
        return replace(chosen, stop=("e", "river"), bad_words=("stone",))
    if kind == 4:
        return replace(chosen, n=2, max_tokens=64, temperature=0.9)
    return chosen


async def normal(soak: Soak, rng: random.Random) -> str:
    await soak.consume(text(rng, 5, 400), options(rng))
    return "completed"


async def long_prompt(soak: Soak, rng: random.Random) -> str:
    await soak.consume(text(rng, 2000, 4000), Options(max_tokens=32, temperature=0.0))
    return "completed"


async def guided(soak: Soak, rng: random.Random) -> str:
    guide = rng.choice([("json_schema", SCHEMA), ("regex", "[a-z]{3,9}"), ("ebnf_grammar", 'root ::= "yes" | "no"')])
    await soak.consume(text(rng, 5, 50), Options(max_tokens=48, guide_type=guide[0], guide=guide[1]))
    return "completed"


async def cancelled(soak: Soak, rng: random.Random) -> str:
    """Ask for a long answer and take it back after a few chunks."""
    stream = soak.client.stream(text(rng, 5, 200), Options(max_tokens=1000, ignore_eos=True))
    left = rng.randint(1, 12)
    try:
        async for chunk in stream:
            left -= 1
            if left == 0:
                stream.cancel()
            if chunk.finish_reason:
                return str(chunk.finish_reason)
    except Cancelled:
        return "cancelled"
    finally:
        await stream.aclose()
    return "ended"


async def vanished(soak: Soak, rng: random.Random) -> str:
    """A client that dies: its connection is closed under a running stream, with no stop request."""
    await vanish(BenchTarget("grpc", soak.address, "qwen", 2000), text(rng, 5, 200))
    return "vanished"


async def bad(soak: Soak, rng: random.Random) -> str:
    name = rng.choice(list(BAD))
    try:
        await soak.consume(text(rng, 5, 20), BAD[name])
    except InvalidRequest:
        return "refused"
    raise AssertionError(f"a request with a bad {name} was answered")


async def too_long(soak: Soak, rng: random.Random) -> str:
    try:
        await soak.consume(text(rng, 40_000, 40_000), Options(max_tokens=8))
    except InvalidRequest:
        return "refused"
    raise AssertionError("a prompt beyond the context was answered")


MIX: list[tuple[Action, int]] = [
    (normal, 60),
    (long_prompt, 4),
    (guided, 8),
    (cancelled, 12),
    (vanished, 4),
    (bad, 11),
    (too_long, 1),
]


class Soak:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.address: str = args.grpc
        self.client = AsyncClient(self.address, retry=NO_RETRY)
        self.outcomes: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.tokens = 0
        self.memory: list[dict[str, float]] = []

    async def consume(self, prompt: str, chosen: Options) -> None:
        ends = 0
        async for chunk in self.client.stream(prompt, chosen):
            self.tokens += len(chunk.token_ids)
            ends += chunk.finish_reason is not None
        if ends != chosen.n:
            raise AssertionError(f"{ends} of {chosen.n} sequences ended")

    async def worker(self, rng: random.Random, until: float) -> None:
        actions, weights = zip(*MIX, strict=True)
        while time.monotonic() < until:
            action = rng.choices(actions, weights)[0]
            try:
                self.outcomes[f"{action.__name__}: {await action(self, rng)}"] += 1
            except (ClientError, AssertionError) as error:
                self.problems[f"{action.__name__}: {type(error).__name__}: {str(error)[:200]}"] += 1

    async def watch(self, until: float) -> None:
        while time.monotonic() < until:
            self.memory.append(await asyncio.to_thread(self.sample))
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> dict[str, float]:
        found = {"gpu_mib": gpu_mib(), "kv_blocks": scrape(self.args.metrics).get("qwen_kv_blocks_used", -1.0)}
        if self.args.pid:
            found |= {f"rss_mib {name}": size for name, size in memory_mib(tree(self.args.pid)).items()}
        return found

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        until = began + self.args.seconds
        workers = [self.worker(random.Random(i), until) for i in range(self.args.streams)]
        await asyncio.gather(self.watch(until), *workers)
        seconds = time.monotonic() - began
        await asyncio.sleep(SETTLE_SECONDS)
        after = {name: value for name, value in scrape(self.args.metrics).items() if name in FREE}
        await self.client.close()
        passed = not self.problems and not any(after.values()) and len(after) == len(FREE)
        return {
            "passed": passed, "seconds": round(seconds, 1), "streams": self.args.streams, "tokens": self.tokens,
            "outcomes": dict(sorted(self.outcomes.items())), "problems": dict(self.problems), "after": after,
            "memory_first": self.memory[min(2, len(self.memory) - 1)], "memory_last": self.memory[-1],
            "memory": self.memory,
        }  # fmt: skip


def scrape(url: str) -> dict[str, float]:
    return {sample.name: sample.value for sample in prometheus.fetch(url)}


def gpu_mib() -> float:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError):
        return 0.0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = Arguments(prog="python -m loadtest.bench.gpu.soak", description=__doc__)
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--metrics", default="http://127.0.0.1:8002/metrics")
    parser.add_argument("--seconds", type=positive, default=600.0)
    parser.add_argument("--streams", type=count, default=96)
    parser.add_argument("--pid", type=int, default=0, help="the launcher, to watch its processes' memory")
    parser.add_argument("--out", type=Path, default=Path("results/soak.json"))
    args = parser.parse_args()
    result = asyncio.run(Soak(args).run())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "memory"}, indent=1))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
