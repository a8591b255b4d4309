"""What ``make cluster`` was asked for, checked before anything starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import urlsplit

from contract.arguments import Arguments
from contract.paths import ROOT
from deploy.replicas import LOOK_SECONDS
from serving.launch.config import LaunchError, is_free, number
from serving.launch.envoy import GUARD_FLAGS, Guard

MOST = 64  # replicas on one host


def parse(arguments: list[str]) -> argparse.Namespace:
    """Ends the program with one line for what makes no sense."""
    parser = Arguments(prog="python -m deploy.cluster", description="Replicas behind smg (HTTP) and Envoy (gRPC).")
    add = parser.add_argument
    add(
        "--replicas",
        default="2",
        help="how many replicas to start here, or gateway URLs separated by commas",
    )
    add("--host", default="127.0.0.1", help="address of both routers (default: 127.0.0.1)")
    add("--port", type=number("GATEWAY_PORT"), default=8080, help="port of OpenAI's API over HTTP (default: 8080)")
    add("--grpc-port", type=number("GRPC_PORT"), default=8001, help="port of gRPC (default: 8001)")
    add(
        "--replica-grpc-port",
        default="8001",
        help="gRPC port of the replicas given as URLs: one for all, or one for each (default: 8001)",
    )
    add("--policy", default="cache_aware", help="how smg chooses a replica (default: cache_aware)")
    add(
        "--run",
        type=Path,
        default=ROOT / ".run/cluster",
        help="folder of logs and process id (default: .run/cluster)",
    )
    add("--roll", action="store_true", help="replace the replicas of the cluster that runs there, one by one")
    for flag, what in GUARD_FLAGS.items():
        add(flag, default="", metavar="FILE", help=what)
    add("serving", nargs="*", help="after --: options of python -m serving")
    try:
        chosen = parser.parse_args(arguments)
        chosen.guard = Guard.of_arguments(chosen)
    except (LaunchError, ValueError) as problem:
        parser.error(str(problem))
    urls = [url.strip().rstrip("/") for url in chosen.replicas.split(",")]
    is_count = chosen.replicas.isdecimal()
    count = int(chosen.replicas) if is_count else 0
    if not 1 <= count <= MOST if is_count else not all(map(_is_base_url, urls)):
        parser.error(
            f"REPLICAS={chosen.replicas!r}: give a number from 1 to {MOST}, or URLs such as http://a:8080,http://b:8080"
        )
    if twice := next((url for url in urls if urls.count(url) > 1), ""):
        parser.error(f"REPLICAS={chosen.replicas!r}: {twice} is there twice; a replica is named once")
    ports = [int(port) if port.isdecimal() else 0 for port in chosen.replica_grpc_port.split(",")]
    if not count and (len(ports) not in (1, len(urls)) or not all(0 < port < 65536 for port in ports)):
        parser.error(f"--replica-grpc-port {chosen.replica_grpc_port!r}: give one port for all, or one for each URL")
    chosen.serving = [f"--lame-duck={LOOK_SECONDS}", *chosen.serving]
    chosen.count, chosen.urls = count, [] if count else urls
    chosen.grpc_ports = ports * len(urls) if len(ports) == 1 else ports
    return chosen


def _is_base_url(text: str) -> bool:
    """``http://HOST:PORT`` and no more."""
    try:
        url = urlsplit(text)
        return url.scheme == "http" and bool(url.hostname) and url.port != 0 and not (url.path or url.query)
    except ValueError:  # no port, or no IPv6 address
        return False


def check_ports(chosen: argparse.Namespace) -> None:
    """Raises ``LaunchError`` when the routers could not listen, before a minute is spent on replicas."""
    ports = {"GATEWAY_PORT": chosen.port, "GRPC_PORT": chosen.grpc_port}
    for name, port in ports.items():
        if not 0 < port < 65536:
            raise LaunchError(f"{name}={port} is out of range; give a number between 1 and 65535")
    if chosen.port == chosen.grpc_port:
        raise LaunchError(f"GATEWAY_PORT and GRPC_PORT are both {chosen.port}; give each its own")
    taken = [f"{name}={port}" for name, port in ports.items() if not is_free("HOST", chosen.host, port)]
    if taken:
        others = " ".join(f"{name}={port + 100}" for name, port in ports.items())
        raise LaunchError(
            f"port taken: {', '.join(taken)}; stop what listens there or choose others: make cluster {others}"
        )
