"""`make bench-isolation`: what the others notice while one client attacks.

12 streams run without a pause, half of them over gRPC and half through the gateway, and one small request per second
is sent to each of the two endpoints; first alone and then during each attack of ``loadtest/bench/attacks.py``. Columns:

    gap_ms       the largest time between two messages of a stream (promise: 250 more than alone)
    small_ms     the slowest small request, from sending to its answer (promise: 500 more than alone)
    away_ms      within that gap and that request, the larger: a core of this machine ran nothing at all
    waited_ms    the same: the thread of the server, or of this program, that waited longest for a core
    took_s       the attack itself
    memory_mib   growth of the process that grew most, from before the attack to its end
    attacker     what the attacker got
"""

from __future__ import annotations

import contract.program

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from client import AsyncClient, ClientError, Options
from client.types import NO_RETRY
from contract.paths import ROOT
from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.attacks import ATTACKS
from loadtest.bench.process import Server, started
from loadtest.bench.witness import Witnessed, witness

ENGINES = {"simulated": ("--runtime", "simulated", "--step-ms", "15"), "cpu": ("--model", "smollm2")}
ATTACK_S = 120.0
GAP_MS, SMALL_MS = 250, 500  # the promises
DOCUMENTED = ("engine", "attack", "gap_ms", "small_ms", "away_ms", "waited_ms", "took_s", "memory_mib", "attacker")
SHOWN = (*DOCUMENTED[:-1], "failures", "attacker")
DOCUMENT = ROOT / "docs" / "benchmarks.md"
SAID = ("away", "waited")  # of the witness's figures
OPENS, CLOSES = "<!-- bench-isolation -->\n", "<!-- /bench-isolation -->"


@dataclass(frozen=True, slots=True, order=True)
class Pause:
    """``seconds`` until ``end`` (``time.monotonic``)."""

    seconds: float = 0.0
    end: float = 0.0

    @property
    def ms(self) -> int:
        return round(self.seconds * 1e3)


@dataclass
class Noticed:
    """What the other clients saw at worst."""

    gap: Pause = Pause()
    small: Pause = Pause()
    failures: list[str] = field(default_factory=list)


@dataclass
class GrpcEndpoint:
    """Triton's gRPC, by our own client."""

    client: AsyncClient
    tokens: int

    async def stream(self, number: int) -> AsyncIterator[object]:
        async for message in self.client.stream(
            f"Tell me story {number}.", Options(max_tokens=self.tokens, ignore_eos=True, seed=number)
        ):
            yield message

    async def small(self) -> None:
        await self.client.generate("Hi", Options(max_tokens=1))


@dataclass
class HttpEndpoint:
    """The gateway. ``user`` makes it another tenant than the attacker, who has the same address."""

    client: httpx.AsyncClient
    tokens: int

    async def stream(self, number: int) -> AsyncIterator[object]:
        body = self._body(f"Tell me story {number}.", self.tokens) | {"stream": True, "ignore_eos": True}
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if not answer.is_success:
                raise Refused(answer.status_code, (await answer.aread()).decode()[:80])
            async for line in answer.aiter_lines():
                if line.startswith('data: {"error'):
                    raise Refused(200, line[:80])
                if line:
                    yield line

    async def small(self) -> None:
        answer = await self.client.post("/v1/chat/completions", json=self._body("Hi", 1))
        if not answer.is_success:
            raise Refused(answer.status_code, answer.text[:80])

    def _body(self, content: str, tokens: int) -> dict[str, Any]:
        return {"model": "qwen", "user": "others", "max_tokens": tokens,
                "messages": [{"role": "user", "content": content}]}  # fmt: skip


class Refused(Exception):
    """The gateway's answer to a request of the others."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")


class Others:
    """Streams that never pause, and a small request every second. ``noticed`` may be replaced while they run."""

    def __init__(self, endpoints: Sequence[GrpcEndpoint | HttpEndpoint], streams: int) -> None:
        self.noticed = Noticed()
        self._tasks = [
            asyncio.create_task(self._stream(endpoints[number % len(endpoints)], number)) for number in range(streams)
        ]
        self._tasks += [asyncio.create_task(self._small(endpoint)) for endpoint in endpoints]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stream(self, endpoint: GrpcEndpoint | HttpEndpoint, number: int) -> None:
        while True:
            last = 0.0
            try:
                async for _ in endpoint.stream(number):
                    now = time.monotonic()
                    self.noticed.gap = max(self.noticed.gap, Pause(now - (last or now), now))
                    last = now
            except FAILURES as error:
                self.noticed.failures.append(f"stream: {error!r}")
                await asyncio.sleep(0.5)

    async def _small(self, endpoint: GrpcEndpoint | HttpEndpoint) -> None:
        pending: set[asyncio.Task[None]] = set()
        while True:
            pending = {task for task in pending if not task.done()}
            pending.add(asyncio.create_task(self._one_small(endpoint)))
            await asyncio.sleep(1)

    async def _one_small(self, endpoint: GrpcEndpoint | HttpEndpoint) -> None:
        began = time.monotonic()
        try:
            await endpoint.small()
        except FAILURES as error:
            self.noticed.failures.append(f"small request: {error!r}")
        now = time.monotonic()
        self.noticed.small = max(self.noticed.small, Pause(now - began, now))


FAILURES = (ClientError, httpx.HTTPError, Refused)


async def attacked(server: Server, name: str) -> str:
    """Run one attack to its end; what the attacker got."""
    ports = [str(server.ports[endpoint]) for endpoint in ("grpc", "gateway")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.bench.attacks", name, *ports,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
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


def seen_by(watched: Witnessed, pause: Pause) -> dict[str, Any]:
    return watched.between(pause.end - pause.seconds, pause.end)


async def run_engine(
    server: Server, watched: Witnessed, engine: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with (
        AsyncClient(f"127.0.0.1:{server.ports['grpc']}", retry=NO_RETRY) as grpc,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ports['gateway']}", timeout=90, trust_env=False) as http,
    ):
        others = Others((GrpcEndpoint(grpc, arguments.tokens), HttpEndpoint(http, arguments.tokens)), arguments.streams)
        await asyncio.sleep(arguments.settle)
        gc.freeze()  # a full pass of the collector would look like a gap
        for name in ("", *arguments.attacks):
            watched.forget()
            memory = await asyncio.to_thread(server.memory_mib)  # not in the loop that stamps messages
            others.noticed, began = Noticed(), time.monotonic()
            got = await attacked(server, name) if name else ""
            took = time.monotonic() - began
            await asyncio.sleep(arguments.settle)  # what comes late belongs to this attack
            seen, grown = others.noticed, growth(memory, await asyncio.to_thread(server.memory_mib))
            machine = {"gap": seen_by(watched, seen.gap), "small": seen_by(watched, seen.small)}
            rows.append(
                {
                    "engine": engine,
                    "attack": name or "none",
                    "gap_ms": seen.gap.ms,
                    "small_ms": seen.small.ms,
                    **{f"{what}_ms": max(found.get(what, 0) for found in machine.values()) for what in SAID},
                    "took_s": round(took, 1),
                    "memory_mib": grown,
                    "failures": len(seen.failures),
                    "attacker": got or "-",
                    "first_failure": (seen.failures or [""])[0][:120],
                    "machine": {**machine, "real_time": watched.is_real_time},
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


def document(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """Replace the table between ``OPENS`` and ``CLOSES``."""
    lines = [f"`{about['command']}`, {about['date']}, load before {about['load_average_before']:g}", ""]
    lines += [f"| {' | '.join(DOCUMENTED)} |", "|---" * len(DOCUMENTED) + "|"]
    for row in rows:
        cells = ["" if name == "attacker" and row[name] == "-" else str(row[name]) for name in DOCUMENTED]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", f"Promises broken: {', '.join(broken(rows)) or 'none'}.", ""]
    before, _, rest = path.read_text(encoding="utf-8").partition(OPENS)
    _, _, after = rest.partition(CLOSES)
    path.write_text(before + OPENS + "\n".join(lines) + CLOSES + after, encoding="utf-8")


def main() -> int:
    parser = Arguments(
        prog="bench-isolation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--streams", type=count, default=12)
    parser.add_argument("--tokens", type=count, default=200, help="per stream")
    parser.add_argument("--settle", type=positive, default=3.0, help="seconds before, between and after attacks")
    parser.add_argument("--document", action="store_true", help=f"write the table into {DOCUMENT.name} too")
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_isolation.json")
    arguments = parser.parse_args()

    def take() -> list[result.Row]:
        rows: list[result.Row] = []
        for engine in arguments.engines:
            with started(*ENGINES[engine], gateway=True) as server, witness(os.getpid()) as watched:
                rows += asyncio.run(run_engine(server, watched, engine, arguments))
        return rows

    def verdict(rows: list[result.Row], about: dict[str, Any]) -> dict[str, Any]:
        if arguments.document:
            document(rows, about, DOCUMENT)
        return {"promises broken": broken(rows)}

    columns = {name: name for name in SHOWN}
    return result.run("bench-isolation", arguments, "one client attacks", take, columns=columns, verdict=verdict)


if __name__ == "__main__":
    sys.exit(main())
