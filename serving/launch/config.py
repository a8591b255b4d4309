"""What `make serve` was asked for, checked once before anything starts."""

from __future__ import annotations

import argparse
import errno
import math
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.arguments import Arguments
from contract.authority import authority
from contract.gpus import MEMORY_FRACTION, MEMORY_FRACTIONS
from contract.paths import ROOT
from serving.host.ports import free_ports
from serving.launch.envoy import GUARD_FLAGS, Guard
from serving.runtimes.simulated import Faults
from serving.triton.settings import DEFAULT_QUEUE_LIMIT

LOCAL = ("127.0.0.1", "localhost", "::1")
ENGINES = ROOT / "engines"
DEFAULT_ENGINE = ENGINES / "default"
SIMULATED_ENGINE = ENGINES / "simulated"
RUNTIMES = ("openvino", "tensorrt_llm", "vllm", "simulated")


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting of the Triton models: ``--max-streams`` here, ``MAX_STREAMS`` in their environment and in ``make``."""

    variable: str
    type: Callable[[str], Any]
    default: Any
    range: tuple[float, float] | None  # smallest and largest value
    help: str

    @property
    def flag(self) -> str:
        return f"--{self.variable.lower().replace('_', '-')}"

    @property
    def attribute(self) -> str:
        return self.variable.lower()


OPTIONS = (
    Flag("MAX_STREAMS", int, 256, (1, 65536), "sequences decoded at once (default 256)"),
    Flag("QUEUE_LIMIT", int, DEFAULT_QUEUE_LIMIT, (0, 2**20), "sequences that may wait (default %(default)s)"),
    Flag("KV_CACHE_GB", float, 0.0, (0, 2**20), "size of the KV cache in GiB (default 0: what fits the machine)"),
    Flag(
        "GPU_MEMORY_FRACTION", float, MEMORY_FRACTION, MEMORY_FRACTIONS,
        "share of GPU memory that the engine may use when KV_CACHE_GB is 0 (default %(default)s)",
    ),
    Flag("THREADS", int, 0, (0, 4096), "CPU threads of the OpenVINO engine (default 0: OpenVINO's choice)"),
    Flag("EXACT", int, 0, (0, 1), "1: OpenVINO in FP32, KV too: answers do not depend on other streams (slower)"),
    Flag(
        "STEP_SECONDS", float, 0.0, (0, 3600),
        "restart an engine that has work but makes no step for this long (default 0: 12, on a CPU 120)",
    ),
    Flag("STEP_MS", float, 15.0, (0, 3_600_000), "simulated: time of one engine step (default 15)"),
    Flag("PREFILL_MS_PER_TOKEN", float, 0.0, (0, 3_600_000), "simulated: added to the first step (default 0)"),
    Flag("FAULT", str, "", None, "simulated: die@N, error@N, eos@N, stall@N:SECONDS"),
)  # fmt: skip


class LaunchError(Exception):
    """One line for the user: what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Config:
    """Ports are TCP; gateway port 0: no gateway. ``lame_duck``: seconds after SIGTERM in which routers see that the
    server is not ready and requests are still taken; ``drain``: seconds that open streams then get to end.

    ``model`` is what ``engine`` is built from when it is not there; empty: the model of a machine without an engine."""

    engine: Path
    model: str
    runtime: str  # the only one that will do; empty: whichever the engine has
    host: str  # the gateway's
    triton_host: str
    guard: Guard | None  # of the gRPC proxy at ``triton_host``; Triton itself then stays on localhost
    http_port: int
    grpc_port: int
    inner_grpc_port: int  # Triton's own; another one behind the proxy
    metrics_port: int
    gateway_port: int
    lame_duck: int
    drain: int
    max_restarts: int  # in ten minutes; 0: no limit
    environment: dict[str, str]  # what the models read, see serving.triton.settings

    @property
    def ports(self) -> dict[str, int]:
        names = ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT", "GATEWAY_PORT")
        values = (self.http_port, self.grpc_port, self.metrics_port, self.gateway_port)
        return {name: value for name, value in zip(names, values, strict=True) if value}

    @property
    def inner_host(self) -> str:
        """Where Triton itself listens."""
        return "127.0.0.1" if self.guard else self.triton_host

    def address(self, port: str) -> tuple[str, str, int]:
        """The variable that says where ``port`` of ``ports`` listens, its value, and the port's number."""
        if port == "GATEWAY_PORT":
            return "HOST", self.host, self.gateway_port
        host = self.triton_host if port == "GRPC_PORT" else self.inner_host
        return "TRITON_HOST", host, self.ports[port]


def number(variable: str, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A type for ``argparse`` whose error names the variable that was typed after ``make``: a ``LaunchError``."""

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            what = "whole number" if kind is int else "number"
            raise LaunchError(f"{variable}={text} is not a {what}: give one, or leave it out") from None

    return convert


def _parser() -> Arguments:
    parser = Arguments(prog="python -m serving", description="Serve an engine directory with Triton.")
    add = parser.add_argument
    add("--engine", type=Path, default=None, help="engine directory (default: engines/default)")
    add(
        "--model", default="",
        help="model to serve, built into engines/ first if need be: smollm2, synthetic, DIR, FILE.gguf or a hub id",
    )  # fmt: skip
    add(
        "--runtime", default="", choices=["", *RUNTIMES],
        help="refuse an engine for any other runtime; `simulated` has no model: a clock makes the tokens",
    )  # fmt: skip
    add("--host", default="127.0.0.1", help="address of the gateway; anything but localhost opens it to the network")
    add(
        "--triton-host", default="127.0.0.1",
        help="address of Triton's HTTP, gRPC and metrics; with a key or certificates, of the gRPC proxy only",
    )  # fmt: skip
    for flag, what in GUARD_FLAGS.items():
        add(flag, default="", metavar="FILE", help=what)
    for name, port, what in (
        ("http", 8000, "Triton's HTTP"), ("grpc", 8001, "Triton's gRPC"), ("metrics", 8002, "Triton's metrics"),
        ("gateway", 8080, "the gateway; 0: no gateway"),
    ):  # fmt: skip
        variable = f"{name.upper()}_PORT"
        add(f"--{name}-port", type=number(variable), default=port, help=f"port of {what} (default {port})")
    add(
        "--lame-duck", type=number("LAME_DUCK"), default=0,
        help="seconds after SIGTERM during which /health/ready already fails but requests are still accepted, so that "
        "routers send them elsewhere before one is refused (default 0)",
    )  # fmt: skip
    add(
        "--drain", type=number("DRAIN"), default=10,
        help="seconds that open streams get to end after Ctrl-C or SIGTERM (default 10)",
    )  # fmt: skip
    add(
        "--max-restarts", type=number("MAX_RESTARTS"), default=0,
        help="exit when Triton has died more often than this in ten minutes (default 0: never, it only pauses)",
    )  # fmt: skip
    for option in OPTIONS:
        add(option.flag, type=number(option.variable, option.type), default=option.default, help=option.help)
    return parser


def parse(arguments: list[str] | None = None) -> Config:
    """Command line to ``Config``. Raises ``LaunchError`` for a value out of range."""
    args = _parser().parse_args(arguments)
    _check_values(args)
    guard = _guard(args)
    if args.runtime == "simulated" and args.model:
        raise LaunchError(f"MODEL={args.model} has no effect with RUNTIME=simulated, which has no model: leave one out")
    default = SIMULATED_ENGINE if args.runtime == "simulated" else engine_of(args.model)
    return Config(
        engine=(args.engine or default).resolve(),
        model=args.model,
        runtime=args.runtime,
        host=args.host,
        triton_host=args.triton_host,
        guard=guard,
        http_port=args.http_port,
        grpc_port=args.grpc_port,
        inner_grpc_port=free_ports(1)[0] if guard else args.grpc_port,
        metrics_port=args.metrics_port,
        gateway_port=args.gateway_port,
        lame_duck=args.lame_duck,
        drain=args.drain,
        max_restarts=args.max_restarts,
        environment={option.variable: str(getattr(args, option.attribute)) for option in OPTIONS},
    )


def engine_of(model: str) -> Path:
    """The directory of the engine that ``--model`` names: ``Qwen/Qwen2.5-7B`` is ``engines/qwen2.5-7b``.

    Raises ``LaunchError`` for a path without a name."""
    if not model:
        return DEFAULT_ENGINE
    path = Path(model)
    name = path.resolve().name if path.is_dir() else path.name  # "." and "../" have names too
    if not name.strip():
        raise LaunchError(f"MODEL={model} has no name: give a directory, a .gguf file, a hub id, smollm2 or synthetic")
    return ENGINES / name.lower()


def _check_values(args: argparse.Namespace) -> None:
    for name in ("http_port", "grpc_port", "metrics_port", "gateway_port"):
        _within(name.upper(), getattr(args, name), 0 if name == "gateway_port" else 1, 65535)
    for name in ("host", "triton_host"):
        if not getattr(args, name).strip():
            raise LaunchError(f"{name.upper()}= is empty: give an address of this machine, or leave it out")
    if args.host not in LOCAL and not args.gateway_port:
        raise LaunchError(f"HOST={args.host} is the gateway's, and GATEWAY_PORT=0 starts none; TRITON_HOST is Triton's")
    _within("LAME_DUCK", args.lame_duck, 0, 3600)
    if args.lame_duck and not args.gateway_port:
        raise LaunchError(
            f"LAME_DUCK={args.lame_duck} shows at the gateway's /health/ready, and GATEWAY_PORT=0 starts none"
        )
    _within("DRAIN", args.drain, 0, 3600)
    _within("MAX_RESTARTS", args.max_restarts, 0, 1000)
    for option in OPTIONS:
        if option.range:
            _within(option.variable, getattr(args, option.attribute), *option.range)
    try:
        Faults.parse(args.fault)
    except ValueError as error:
        raise LaunchError(str(error)) from None


def _guard(args: argparse.Namespace) -> Guard | None:
    try:
        guard = Guard.of_arguments(args)
    except ValueError as error:
        raise LaunchError(str(error)) from None
    if guard == Guard():
        return None
    if guard.is_open and args.triton_host not in LOCAL:
        raise LaunchError(
            f"TRITON_HOST={args.triton_host} would let everybody in, because a certificate identifies only the server: "
            "set TRITON_KEY_FILE or TRITON_TLS_CLIENT_CA"
        )
    return guard


def _within(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise LaunchError(f"{name}={value:.12g} is out of range; give a number between {low:.12g} and {high:.12g}")


def check_ports(config: Config) -> None:
    """Every port must be free now; a port that is taken later shows when Triton binds it."""
    for port in config.ports.values():
        if len(same := [name for name, other in config.ports.items() if other == port]) > 1:
            raise LaunchError(f"{' and '.join(same)} are the same port, {port}; give each its own")
    taken = [f"{name}={port}" for name, port in config.ports.items() if not is_free(*config.address(name))]
    if taken:
        model = [f"MODEL={shlex.quote(config.model)}"] if config.model else []
        others = " ".join([*model, *(f"{name}={port + 100}" for name, port in config.ports.items())])
        raise LaunchError(
            f"port taken: {', '.join(taken)}; stop what listens there or choose others: make serve {others}"
        )


def is_free(variable: str, host: str, port: int) -> bool:
    """Raises ``LaunchError`` for an address that cannot be used at all."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LaunchError(f"{variable}={host} cannot be used ({error}); give an address of this machine") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            remedy = "ports below 1024 are root's" if error.errno == errno.EACCES else "give an address of this machine"
            raise LaunchError(f"{variable}={host} port {port} cannot be bound ({error.strerror}); {remedy}") from None
    return True


def connectable(host: str) -> str:
    """The address under which this machine reaches what listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(host, host)


def reach(host: str, port: int) -> str:
    """``host:port`` of what listens on ``host``, for a client on this machine."""
    return authority(connectable(host), port)
