"""`make bench-serving`: what the serving layer costs in front of an engine whose speed is known.

The simulated engine gives every running stream one token per step, so its tokens/s are streams ÷ step time exactly.
Clients keep N streams busy over gRPC; figures come from a window after a warm-up. With ``--cores`` the server has that
many cores to itself and the clients have the others, as on a GPU host. Columns:

    outputs         packed: one tensor per response, as our clients, the gateway and the load test ask for it;
                    named: the tensors of NVIDIA's ensemble and ours, as any other client gets them
    efficiency      tokens delivered per second ÷ tokens the engine makes per second
    chunk           tokens per message
    ttft_added_ms   median TTFT minus the engine's own: one step when idle, 1.5 on average when it is running
    itl_p50/p99_ms  gaps between messages of a stream
    cpu_ms_per_1k   CPU time of Triton and its models per 1,000 tokens (the client's is not included)
"""

from __future__ import annotations

import contract.program

import argparse
import itertools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.process import Server, started
from loadtest.bench.streams import StreamFigures, StreamShape, measure
from loadtest.errors import LoadtestError
from loadtest.stats import percentiles_ms


def row(seen: StreamFigures, streams: int, step_ms: float, cpu: float, all_tokens: int) -> dict[str, Any]:
    engine = streams / (step_ms / 1e3)
    own = step_ms * (1 if streams == 1 else 1.5)
    itl = percentiles_ms(seen.gaps)
    return {
        "streams": streams,
        "efficiency": round(seen.tokens_per_s / engine, 4),
        "tokens_per_s": round(seen.tokens_per_s, 1),
        "engine_tokens_per_s": round(engine, 1),
        "chunk": round(seen.tokens / seen.messages, 2),
        "ttft_added_ms": round(statistics.median(seen.ttft) * 1e3 - own, 2) if seen.ttft else None,
        "itl_p50_ms": itl["p50"],
        "itl_p99_ms": itl["p99"],
        "cpu_ms_per_1k": round(cpu * 1e6 / all_tokens, 1),
    }


def generated(server: Server) -> int:
    return int(server.metric("vllm:generation_tokens_total") or 0)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for step_ms, cores in itertools.product(arguments.step_ms, arguments.cores):
        ours, theirs = split(cores)
        os.sched_setaffinity(0, theirs)  # of the clients, which are this process and its children
        with started("--runtime", "simulated", "--step-ms", str(step_ms), cores=ours) as server:
            for streams, outputs in itertools.product(arguments.streams, arguments.outputs):
                found = one_run(server, streams, outputs == "packed", step_ms, arguments)
                rows.append({"step_ms": step_ms, "cores": len(ours), "outputs": outputs, **found})
    return rows


def one_run(
    server: Server, streams: int, packed: bool, step_ms: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    cpu, made = server.cpu_seconds(), generated(server)
    shape = StreamShape(streams, arguments.tokens, packed=packed)
    (seen,) = measure(server.ports["grpc"], [shape], arguments.warm_up, arguments.seconds)
    time.sleep(0.6)  # the counters are scraped with a delay of up to 0.25 s, Triton's own up to 0.5 s
    used, tokens = server.cpu_seconds() - cpu, generated(server) - made
    return row(seen, streams, step_ms, used, tokens)


def split(cores: int, every: frozenset[int] = frozenset(os.sched_getaffinity(0))) -> tuple[set[int], set[int]]:
    """The server's cores and the clients'; 0: all for both. Raises ``LoadtestError`` when the clients get none."""
    if not cores:
        return set(every), set(every)
    if cores >= len(every):
        raise LoadtestError(f"--cores: {cores} leaves none of this machine's {len(every)} for the clients")
    listed = sorted(every)
    return set(listed[:cores]), set(listed[cores:])


def main() -> int:
    parser = Arguments(prog="bench-serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=count, nargs="+", default=[1, 32, 128, 256])
    parser.add_argument("--step-ms", type=positive, nargs="+", default=[15.0])
    parser.add_argument(
        "--cores", type=count, nargs="+", default=[0], help="for the server alone (all, shared with clients)"
    )
    parser.add_argument("--outputs", nargs="+", choices=["packed", "named"], default=["packed", "named"])
    parser.add_argument("--tokens", type=count, default=256)
    parser.add_argument("--warm-up", type=positive, default=2.0)
    parser.add_argument("--seconds", type=positive, default=10.0)
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_serving.json")
    arguments = parser.parse_args()
    title = "serving layer, simulated engine"
    return result.run("bench-serving", arguments, title, lambda: run(arguments), engine="simulated")


if __name__ == "__main__":
    sys.exit(main())
