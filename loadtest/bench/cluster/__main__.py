"""`make bench-cluster`: three replicas behind smg (HTTP) and Envoy (gRPC) -> results/bench_cluster.{json,md}.

The engines are simulated; launchers, Tritons, gateways and routers are the real ones. Rows:

    conversations         questions that share system prompts and histories; prompt tokens cost 0.5 ms unless cached
    three alike / slow    an open loop over both transports; the third replica takes four times as long for a token
    one of three drains   SIGTERM to a replica in the open loop
    killed                SIGKILL to a replica's launcher, then to all processes of one, under 100 streams; answers are
                          compared with undisturbed ones; new requests follow at once
    one is full           requests that a full replica refuses
    cost                  the same load past the routers and through them
    client leaves         until the engine's slot is free
    2, 4, 8 replicas      15 % below and above the rate that `make capacity` allows for one late request in ten

Columns: hit rate = cached / all prompt tokens; spread = the busiest replica's requests / the mean; TTFT and whole
answers in milliseconds.
"""

from __future__ import annotations

import contract.program

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from contract import engine_dir
from contract.errors import EngineDirectoryError
from loadtest.arguments import Arguments, count
from loadtest.bench import result
from loadtest.bench.cluster import affinity, cost, crowding, trouble
from loadtest.bench.cluster.pool import clean, replicas
from loadtest.errors import EXIT_LIMITS_MISSED, EXIT_OK, EXIT_USAGE, LoadtestError

MODEL = "qwen2.5-simulated"
STEP, SLOW_STEP = "30", "120"  # milliseconds
PLACES = 4  # of a replica that is to be full
PARTS = ("conversations", "slow", "drain", "killed", "full", "cost", "capacity")


def simulated(parts: Sequence[str], streams: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    engine, prefill = ("--runtime", "simulated"), ("--prefill-ms-per-token", str(affinity.PREFILL_MS))
    if "conversations" in parts:
        with replicas(3, *engine, "--step-ms", STEP, *prefill) as servers:
            rows += uvloop.run(affinity.measure(servers, MODEL))
    if {"slow", "drain", "cost"} & set(parts):
        with replicas(4, *engine, each=(STEP, STEP, STEP, SLOW_STEP)) as servers:
            if "cost" in parts:
                rows += uvloop.run(cost.per_token(servers[:3], MODEL)) + uvloop.run(cost.leaving(servers[:3], MODEL))
            if "slow" in parts:
                rows.append(uvloop.run(trouble.slow(servers[:3], MODEL, "three alike")))
                rows.append(uvloop.run(trouble.slow(servers[1:], MODEL, "the third is slow")))
            if "drain" in parts:
                rows.append(uvloop.run(trouble.drained(servers[:3], MODEL)))
    if "killed" in parts:
        with replicas(4, *engine, "--step-ms", STEP) as servers:
            rows += killed(servers, MODEL, streams, 150)
    if "capacity" in parts:
        small = ("--max-streams", str(crowding.PLACES), "--step-ms", str(crowding.STEP_MS))
        with replicas(8, *engine, *small) as servers:
            for number in (2, 4, 8):
                rows += uvloop.run(crowding.measure(servers[:number]))
    if "full" in parts:
        small = ("--max-streams", str(PLACES), "--queue-limit", "0")
        with replicas(2, *engine, *small, "--step-ms", STEP) as servers:
            rows.append(uvloop.run(trouble.full(servers, MODEL, PLACES)))
    return rows


def killed(servers: Sequence[Any], model: str, streams: int, tokens: int) -> list[dict[str, Any]]:
    """Four replicas: three at a time, and the two deaths have one replica each."""
    rows = []
    for name, whole, three in (
        ("launcher killed", False, servers[:3]),
        ("replica killed", True, [*servers[:2], servers[3]]),
    ):
        rows.append(uvloop.run(trouble.dead(three, model, streams, tokens, whole=whole, name=name)))
    return rows


def on_an_engine(path: Path, streams: int, tokens: int) -> list[dict[str, Any]]:
    info = engine_dir.read(path)
    model = info.model.name
    with replicas(4, "--engine", str(path), "--exact", "1", "--threads", "1", "--kv-cache-gb", "1") as servers:
        rows = killed(servers, model, streams, tokens)
    return [row | {"row": f"{row['row']}, {model} {info.precision}"} for row in rows]


COLUMNS = {
    "row": "row", "requests": "requests", "failed": "failed", "hit_rate": "hit rate", "spread": "spread",
    "ttft_p50_ms": "TTFT p50", "ttft_p95_ms": "p95", "answer_p50_ms": "answer p50", "answer_p95_ms": "p95",
    "detail": "more",
}  # fmt: skip
DETAILS = {
    "by_replica": "requests by replica", "on_the_dead": "streams on the dead one", "failed_http": "HTTP failed",
    "failed_grpc": "gRPC failed", "changed": "answers changed", "longest_s": "longest answer (s)",
    "new_requests": "new requests", "new_failed": "of them failed",
    "router_cpu_ms_per_1k": "router CPU ms per 1,000 tokens",
    "ttft_added_ms": "TTFT added (ms)", "itl_added_ms": "gap added (ms)",
    "tokens_per_s_ratio": "tokens/s, routed / direct",
    "rate": "requests/s", "late": "share that waited", "expected_late": "by the formula",
    "free_p50_ms": "slot free p50 (ms)", "free_max_ms": "longest (ms)",
}  # fmt: skip


def cells(row: dict[str, Any]) -> list[Any]:
    lost = row["failed"] if "failed" in row else row["failed_http"] + row["failed_grpc"] + row["new_failed"]
    detail = "; ".join(f"{words} {row[name]}" for name, words in DETAILS.items() if name in row)
    return [(row | {"failed": lost, "detail": detail}).get(name) for name in COLUMNS]


def markdown(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    lines = [
        f"`{about['command']}`, {about['date']}, load before {about['load_average_before']}", "",
        "| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS),
    ]  # fmt: skip
    lines += ["| " + " | ".join(result.cell(value) for value in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = Arguments(prog="bench-cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--streams", type=count, default=100, help="open when a replica is killed (%(default)s)")
    parser.add_argument("--engine", type=Path, help="measure the deaths on this CPU engine too, in FP32 arithmetic")
    parser.add_argument("--tokens", type=count, default=40, help="per answer of --engine (%(default)s)")
    parser.add_argument("--out", type=Path, default=result.RESULTS / "bench_cluster.json")
    arguments = parser.parse_args()
    about = result.environment("bench-cluster", arguments, engine=str(arguments.engine or "simulated"))
    try:
        if arguments.engine:
            engine_dir.read(arguments.engine)  # a mistake shows now, not after minutes
        clean()
        rows = simulated(arguments.parts, arguments.streams)
        if arguments.engine:
            rows += on_an_engine(arguments.engine, arguments.streams, arguments.tokens)
    except (LoadtestError, EngineDirectoryError) as error:
        sys.stderr.write(f"bench-cluster: {error}\n")
        return EXIT_USAGE
    result.show_table("replicas behind routers", list(COLUMNS.values()), [cells(row) for row in rows], width=200)
    path = result.write(arguments.out, about, rows)
    path.with_suffix(".md").write_text(markdown(rows, about), encoding="utf-8")
    print(f"written to {path} and .md")
    broken = [row["row"] for row in rows if row.get("failed") or row.get("failed_grpc") or row.get("new_failed")]
    for name in broken:
        print(f"failed requests: {name}")
    return EXIT_LIMITS_MISSED if broken else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
