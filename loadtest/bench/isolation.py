"""`make bench-isolation`: what the others notice while one client attacks.

12 streams run without a pause, and one small request is sent per second, first alone and then during each attack of
``loadtest/bench/attacks.py``. Columns:

    gap_ms       the largest time between two messages of a stream (promise: 250 more than alone)
    small_ms     the slowest small request, from sending to its answer (promise: 500 more than alone)
    took_s       the attack itself
    memory_mib   growth of the process that grew most, from before the attack to its end
    attacker     what the attacker got
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import AsyncClient, ClientError, Options
from client.types import NO_RETRY
from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.attacks import ATTACKS
from loadtest.bench.process import Server, started
from loadtest.errors import EXIT_OK, EXIT_USAGE, LoadtestError

ENGINES = {"simulated": ("--runtime", "simulated", "--step-ms", "15"), "cpu": ("--model", "smollm2")}
ATTACK_S = 120.0
GAP_MS, SMALL_MS = 250, 500  # the promises


@dataclass
class Noticed:
    """What the other clients saw, in seconds."""

    gap: float = 0.0
    small: float = 0.0
    failures: list[str] = field(default_factory=list)


class Others:
    """Streams that never pause, and a small request every second. ``noticed`` may be replaced while they run."""

    def __init__(self, client: AsyncClient, streams: int, tokens: int) -> None:
        self.noticed = Noticed()
        self._client, self._tokens = client, tokens
        self._tasks = [asyncio.create_task(self._stream(number)) for number in range(streams)]
        self._tasks.append(asyncio.create_task(self._small()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stream(self, number: int) -> None:
        options = Options(max_tokens=self._tokens, ignore_eos=True, seed=number)
        while True:
            last = 0.0
            try:
                async for _ in self._client.stream(f"Tell me story {number}.", options):
                    now = time.monotonic()
                    self.noticed.gap = max(self.noticed.gap, now - last if last else 0.0)
                    last = now
            except ClientError as error:
                self.noticed.failures.append(f"stream: {error}")
                await asyncio.sleep(0.5)

    async def _small(self) -> None:
        pending: set[asyncio.Task[None]] = set()
        while True:
            pending = {task for task in pending if not task.done()}
            pending.add(asyncio.create_task(self._one_small()))
            await asyncio.sleep(1)

    async def _one_small(self) -> None:
        began = time.monotonic()
        try:
            await self._client.generate("Hi", Options(max_tokens=1))
        except ClientError as error:
            self.noticed.failures.append(f"small request: {error}")
        self.noticed.small = max(self.noticed.small, time.monotonic() - began)


async def attacked(server: Server, name: str) -> str:
    """Run one attack to its end; what the attacker got."""
    ports = [str(server.ports[door]) for door in ("grpc", "gateway")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.bench.attacks", name, *ports,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), ATTACK_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return f"no end after {ATTACK_S:g} s"
    lines = (out or err).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}"


def growth(before: dict[str, float], after: dict[str, float]) -> float:
    return round(max((size - before.get(name, size) for name, size in after.items()), default=0.0), 1)


async def run_engine(server: Server, engine: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with AsyncClient(f"127.0.0.1:{server.ports['grpc']}", retry=NO_RETRY) as client:
        others = Others(client, arguments.streams, arguments.tokens)
        await asyncio.sleep(arguments.settle)
        for name in ("", *arguments.attacks):
            others.noticed, memory, began = Noticed(), server.memory_mib(), time.monotonic()
            got = await attacked(server, name) if name else ""
            took = time.monotonic() - began
            await asyncio.sleep(arguments.settle)  # what comes late belongs to this attack
            seen = others.noticed
            rows.append(
                {
                    "engine": engine,
                    "attack": name or "none",
                    "gap_ms": round(seen.gap * 1e3),
                    "small_ms": round(seen.small * 1e3),
                    "took_s": round(took, 1),
                    "memory_mib": growth(memory, server.memory_mib()),
                    "failures": len(seen.failures),
                    "attacker": got or "-",
                    "first_failure": (seen.failures or [""])[0][:120],
                }
            )
        await others.stop()
    return rows


def broken(rows: list[dict[str, Any]]) -> list[str]:
    """The attacks during which a promise was broken, against the same engine without an attack."""
    alone = {row["engine"]: row for row in rows if row["attack"] == "none"}
    return [
        f"{row['engine']}/{row['attack']}"
        for row in rows
        if row["gap_ms"] > alone[row["engine"]]["gap_ms"] + GAP_MS
        or row["small_ms"] > alone[row["engine"]]["small_ms"] + SMALL_MS
        or row["failures"]
    ]


def main() -> int:
    parser = Arguments(
        prog="bench-isolation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--streams", type=count, default=12)
    parser.add_argument("--tokens", type=count, default=200, help="per stream")
    parser.add_argument("--settle", type=positive, default=5.0, help="seconds before, between and after attacks")
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_isolation.json")
    arguments = parser.parse_args()
    about = result.environment("bench-isolation", arguments)
    rows: list[dict[str, Any]] = []
    try:
        for engine in arguments.engines:
            with started(*ENGINES[engine], gateway=True) as server:
                rows += asyncio.run(run_engine(server, engine, arguments))
    except LoadtestError as error:
        sys.stderr.write(f"bench-isolation: {error}\n")
        return EXIT_USAGE
    shown = [name for name in rows[0] if name != "first_failure"]
    result.show_table("one client attacks", shown, [[row[name] for name in shown] for row in rows])
    print(f"promises broken: {', '.join(broken(rows)) or 'none'}")
    print(f"written to {result.write(arguments.out, about, rows, broken=broken(rows))}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
