"""`make bench-serving`: what the serving layer costs in front of an engine whose speed is known.

The simulated engine gives every running stream one token per step, so its tokens/s are streams ÷ step time exactly.
Clients keep N streams busy over gRPC; figures come from a window after a warm-up. Columns:

    outputs         packed: one tensor per response, as our clients, the gateway and the load test ask for it;
                    named: the tensors of NVIDIA's ensemble and ours, as any other client gets them
    efficiency      tokens delivered per second ÷ tokens the engine makes per second
    chunk           tokens per message
    ttft_added_ms   median TTFT minus the engine's own: one step when idle, 1.5 on average when it is running
    itl_p50/p99_ms  gaps between messages of a stream
    cpu_ms_per_1k   CPU time of Triton and its models per 1,000 tokens (client not counted)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import gevent
import psutil
from rich.console import Console
from rich.table import Table

from contract.paths import ROOT
from loadtest.scenarios.base import Request
from loadtest.transports.grpc_stream import GrpcTransport, Target

PROMPT = "Tell me a long story about a river, a bridge and the people who cross it every morning. " * 4


@dataclass
class Window:
    """What the clients saw between warm-up and end."""

    opens: float
    closes: float
    tokens: int = 0
    messages: int = 0
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def one_stream(transport: GrpcTransport, request: Request, window: Window) -> None:
    """One request from send to its last chunk. Raises ``RuntimeError`` for a lost token, ``TransportError``."""
    sent = last = time.monotonic()
    total = 0

    def on_message(now: float, tokens: int) -> bool:
        nonlocal total, last
        if window.opens <= now < window.closes:
            window.tokens += tokens - total
            window.messages += 1
            (window.gaps if total else window.ttft).append(now - (last if total else sent))
        total, last = tokens, now
        return True

    transport.stream(request, on_message)
    if total != request.max_tokens:
        raise RuntimeError(f"{total} of {request.max_tokens} tokens arrived")


def measure(port: int, streams: int, packed: bool, tokens: int, warm_up: float, seconds: float) -> Window:
    """Keep ``streams`` streams open; lengths differ by a quarter so that their ends spread."""
    transport = GrpcTransport(Target("127.0.0.1", port), "qwen", timeout=120, ignore_eos=True, packed=packed)
    start = time.monotonic()
    window = Window(start + warm_up, start + warm_up + seconds)
    lengths = random.Random(streams)

    def worker() -> None:
        while time.monotonic() < window.closes:
            length = lengths.randint(tokens * 3 // 4, tokens * 5 // 4)
            one_stream(transport, Request(({"role": "user", "content": PROMPT},), length, seed=1), window)

    greenlets = [gevent.spawn(worker) for _ in range(streams)]
    gevent.joinall(greenlets, raise_error=True)
    transport.close()
    return window


def cpu_seconds(root: psutil.Process) -> float:
    """CPU time of a process and all its descendants, user and system."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def row(window: Window, streams: int, step_ms: float, seconds: float, cpu: float, all_tokens: int) -> dict[str, Any]:
    engine = streams / (step_ms / 1e3)
    quantiles = statistics.quantiles(window.gaps, n=100)
    own = step_ms * (1 if streams == 1 else 1.5)
    return {
        "streams": streams,
        "efficiency": round(window.tokens / seconds / engine, 4),
        "tokens_per_s": round(window.tokens / seconds, 1),
        "engine_tokens_per_s": round(engine, 1),
        "chunk": round(window.tokens / window.messages, 2),
        "ttft_added_ms": round(statistics.median(window.ttft) * 1e3 - own, 2) if window.ttft else float("nan"),
        "itl_p50_ms": round(quantiles[49] * 1e3, 2),
        "itl_p99_ms": round(quantiles[98] * 1e3, 2),
        "cpu_ms_per_1k": round(cpu * 1e3 / (all_tokens / 1e3), 1),
    }


def generated(metrics_port: int) -> int:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as response:
        for line in response.read().decode().splitlines():
            if line.startswith("vllm:generation_tokens_total{"):
                return int(float(line.rpartition(" ")[2]))
    return 0


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "command": f"make bench-serving ({' '.join(sys.argv[1:]) or 'defaults'})",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "step_ms": arguments.step_ms,
        "tokens_per_stream": arguments.tokens,
        "engine": "simulated",
    }


def start(ports: list[int], step_ms: float) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "serving",
        "--runtime",
        "simulated",
        "--step-ms",
        str(step_ms),
        "--gateway-port",
        "0",
    ]
    for name, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{name}-port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if b"Ctrl-C" in line:
            return process
    raise SystemExit("bench-serving: the server did not start; run `make serve RUNTIME=simulated` to see why")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    ports = free_ports(3)
    server = start(ports, arguments.step_ms)
    rows = []
    try:
        root = psutil.Process(server.pid)
        for streams, packed in itertools.product(arguments.streams, (True, False)):
            cpu, made = cpu_seconds(root), generated(ports[2])
            window = measure(ports[1], streams, packed, arguments.tokens, arguments.warm_up, arguments.seconds)
            time.sleep(0.6)  # the counters are scraped with a delay of up to 0.25 s, Triton's own up to 0.5 s
            used, tokens = cpu_seconds(root) - cpu, generated(ports[2]) - made
            found = row(window, streams, arguments.step_ms, arguments.seconds, used, tokens)
            rows.append({"outputs": "packed" if packed else "named", **found})
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 128, 256])
    parser.add_argument("--step-ms", type=float, default=15.0)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--warm-up", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    rows = run(arguments)
    table = Table(title=f"serving layer, simulated engine, step {arguments.step_ms:g} ms")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for each in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:g}" for value in each.values()))
    Console(width=130).print(table)
    path = ROOT / "results/bench_serving.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": environment(arguments), "rows": rows}, indent=2) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
