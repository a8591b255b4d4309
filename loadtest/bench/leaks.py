"""`make bench-leaks`: what thousands of streams, and clients that vanish, leave behind in the server's processes.

Rounds of streams, half over gRPC and half through the gateway, with a pause after each; then a client program with
hundreds of open streams is killed. One row per process:

    mib          resident memory after the first round, which fills caches and pools
    slope_kib    growth per 1,000 further streams (least squares over the rounds)
    files        open files after the first round, and what was added to them at the end

Beneath: how long the slots, KV blocks and sockets of the vanished clients stayed taken.
"""

from __future__ import annotations

import contract.program

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from client import AsyncClient
from client.types import NO_RETRY
from contract.paths import ROOT
from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.isolation import ENGINES, GrpcEndpoint, HttpEndpoint
from loadtest.bench.process import Server, started, tree
from loadtest.errors import EXIT_OK, EXIT_USAGE, LoadtestError

MODELS = ("tokenizer", "engine", "detokenizer")
FREE_S = 60.0  # for what vanished clients held
SHM = Path("/dev/shm")
VANISHING = 20_000  # tokens asked for by a stream that is not meant to end
OPEN = "open"  # the word of the client program once all its streams have begun


def role(process: psutil.Process) -> str:
    """What a process of the server does, from its command line."""
    words = process.cmdline()
    for model in MODELS:
        if any(f"/{model}/1/model.py" in word for word in words):
            return f"{model} stub"
    for part, name in (("serving.gateway.worker", "gateway worker"), ("serving.gateway", "gateway supervisor"),
                       ("openvino.worker", "OpenVINO worker"), ("serving", "launcher")):  # fmt: skip
        if any(word.endswith(part) for word in words):
            return name
    return str(process.name())


@dataclass
class Held:
    """One process, looked at after each round."""

    process: psutil.Process
    name: str
    rss: list[float] = field(default_factory=list)  # MiB
    files: list[int] = field(default_factory=list)

    def look(self) -> None:
        self.rss.append(self.process.memory_info().rss / 2**20)
        self.files.append(self.process.num_fds())

    def row(self, streams_per_round: int, rounds: int) -> dict[str, Any]:
        """The first ``rounds`` looks came after a round each."""
        at = [float(number * streams_per_round) for number in range(rounds)]
        slope = statistics.linear_regression(at, self.rss[:rounds]).slope * 1024 * 1000
        return {
            "process": self.name, "mib": round(self.rss[0], 1), "slope_kib": round(slope),
            "grew_mib": round(self.rss[-1] - self.rss[0], 1), "files": self.files[0],
            "more_files": self.files[-1] - self.files[0],
        }  # fmt: skip


def held(server: Server) -> list[Held]:
    processes = server.processes()
    names = [role(process) for process in processes]
    numbers = dict.fromkeys(names, 0)
    found = []
    for process, name in zip(processes, names, strict=True):
        numbers[name] += 1
        found.append(Held(process, f"{name} {numbers[name]}" if names.count(name) > 1 else name))
    return found


async def one_round(endpoints: Sequence[GrpcEndpoint | HttpEndpoint], streams: int, at_once: int) -> None:
    """``streams`` answers, ``at_once`` at a time. Raises what a failed one raised."""
    turns = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with turns:
            async for _ in endpoints[number % len(endpoints)].stream(number):
                pass

    await asyncio.gather(*(one(number) for number in range(streams)))


async def rounds(server: Server, arguments: argparse.Namespace) -> list[Held]:
    async with (
        AsyncClient(f"127.0.0.1:{server.ports['grpc']}", retry=NO_RETRY) as grpc,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ports['gateway']}", timeout=90, trust_env=False) as http,
    ):
        endpoints = (GrpcEndpoint(grpc, arguments.tokens), HttpEndpoint(http, arguments.tokens))
        per_round = arguments.streams // arguments.rounds
        processes = held(server)
        for _ in range(arguments.rounds + 1):
            await one_round(endpoints, per_round, arguments.at_once)
            await asyncio.sleep(arguments.settle)
            for each in processes:
                each.look()
    return processes


# --- clients that vanish ---------------------------------------------------------------------------------------------


async def hold_open(grpc_port: int, gateway_port: int, streams: int) -> None:
    """The client program: says ``OPEN`` when all its streams have begun, and reads on until it is killed."""
    limits = httpx.Limits(max_connections=None)
    async with (
        AsyncClient(f"127.0.0.1:{grpc_port}", retry=NO_RETRY) as grpc,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway_port}", timeout=90, trust_env=False, limits=limits
        ) as http,
    ):
        endpoints = (GrpcEndpoint(grpc, VANISHING), HttpEndpoint(http, VANISHING))
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def one(number: int) -> None:
            first = True
            async for _ in endpoints[number % 2].stream(number):
                if first:
                    begun.put_nowait(None)
                    first = False

        tasks = [asyncio.ensure_future(one(number)) for number in range(streams)]
        everything = asyncio.gather(*tasks)
        for _ in range(streams):
            waiting = asyncio.ensure_future(begun.get())
            await asyncio.wait((waiting, everything), return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                everything.result()
        print(OPEN, flush=True)
        await everything


def sockets(server: Server) -> int:
    """Connections of clients, in whatever state, that the server's processes hold."""
    ports = {server.ports["grpc"], server.ports["gateway"]}
    found = 0
    for process in server.processes():
        of_clients = (c for c in process.net_connections("tcp") if c.laddr and c.laddr.port in ports)
        found += sum(each.status != psutil.CONN_LISTEN for each in of_clients)
    return found


def shared_memory() -> int:
    """Bytes in /dev/shm, of all programs."""
    return sum(file.stat().st_size for file in SHM.glob("*") if file.is_file())


def vanish(server: Server, streams: int) -> dict[str, Any]:
    """Kill a client program with ``streams`` open streams; seconds until nothing of it is left."""
    connections, memory, blocks = sockets(server), shared_memory(), server.metric("qwen_kv_blocks_used") or 0.0
    ports = [str(server.ports[endpoint]) for endpoint in ("grpc", "gateway")]
    command = [sys.executable, "-m", "loadtest.bench.leaks", "--hold", *ports, str(streams)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        assert program.stdout
        if program.stdout.readline().strip() != OPEN:
            raise LoadtestError("the client program ended before all its streams had begun (see above)")
        time.sleep(1)
        taken = server.metric("qwen_slots_used")
        program.kill()
    began = time.monotonic()
    left: dict[str, Callable[[], bool]] = {
        "slots": lambda: server.metric("qwen_slots_used") == 0,
        "kv_blocks": lambda: (server.metric("qwen_kv_blocks_used") or 0) <= blocks,
        "sockets": lambda: sockets(server) <= connections,
        "shm": lambda: shared_memory() <= memory,
    }
    freed: dict[str, float | None] = dict.fromkeys(left)
    while time.monotonic() - began < FREE_S and None in freed.values():
        time.sleep(0.1)
        for name, is_free in left.items():
            if freed[name] is None and is_free():
                freed[name] = round(time.monotonic() - began, 1)
    return {"clients": streams, "slots_taken": taken} | {f"{name}_free_s": value for name, value in freed.items()}


def main() -> int:
    parser = Arguments(prog="bench-leaks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=list(ENGINES), default="simulated")
    parser.add_argument("--streams", type=count, default=5000)
    parser.add_argument("--rounds", type=count, default=10, help="after a first one that is not counted")
    parser.add_argument("--at-once", type=count, default=32)
    parser.add_argument("--tokens", type=count, default=40, help="per stream")
    parser.add_argument("--vanish", type=count, default=500, help="open streams of the client program that is killed")
    parser.add_argument("--settle", type=positive, default=3.0, help="seconds after each round")
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_leaks.json")
    parser.add_argument("--hold", nargs=3, type=count, metavar=("GRPC", "GATEWAY", "STREAMS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        asyncio.run(hold_open(*arguments.hold))
        return EXIT_OK
    about = result.environment("bench-leaks", arguments)
    try:
        with started(*ENGINES[arguments.engine], "--max-streams", "512", gateway=True) as server:
            processes = asyncio.run(rounds(server, arguments))
            gone = vanish(server, arguments.vanish)
            for each in processes:
                each.look()
            rows = [each.row(arguments.streams // arguments.rounds, arguments.rounds + 1) for each in processes]
            pids = tree(server.processes()[0].pid)
    except LoadtestError as error:
        sys.stderr.write(f"bench-leaks: {error}\n")
        return EXIT_USAGE
    gone["processes_left"] = sum(process.is_running() for process in pids)
    result.show_table(f"{arguments.streams} streams", list(rows[0]), [list(row.values()) for row in rows])
    result.show_table("clients that vanish", list(gone), [list(gone.values())])
    print(f"written to {result.write(arguments.out, about, rows, vanished=gone)}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
