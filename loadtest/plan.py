"""Everything a run is made of, validated once; workers get it as a dictionary, so a plan travels as plain data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from contract.authority import authority, bracketed
from loadtest.arrivals import MAX_ARRIVALS, Arrivals, parse_arrivals, schedule
from loadtest.errors import LoadtestError
from loadtest.lengths import parse_length
from loadtest.scenarios import load_scenario
from loadtest.scenarios.base import Scenario, ScenarioSettings
from loadtest.slo import Slo, parse_slo

TRANSPORTS = ("grpc", "sse", "both")
MAX_SEED = 2**53 - 1  # what JSON's numbers hold exactly
WEEK = 7 * 86400.0  # the longest run; what a number of requests without a duration may take
YES, NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")
_DURATION = re.compile(r"^(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(?:s|$))?(?:(\d+)ms)?$")


@dataclass(frozen=True)
class RunPlan:
    """Seconds, requests per second, tokens. ``rate`` is None in a closed loop. With ``requests`` the run ends when the
    last of so many has ended, and ``duration`` only bounds the time in which they are sent."""

    scenario: str = "chat"
    transport: str = "grpc"
    arrivals: str = ""
    rate: float | None = None
    users: int = 4
    duration: float = 60.0
    requests: int | None = None
    warmup: float = 5.0
    drain: float = 30.0
    timeout: float = 120.0
    slo: str = ""
    seed: int = 1
    language: str = "mixed"
    input_tokens: str = ""
    output_tokens: str = ""
    respect_eos: bool = False
    stream: bool = True
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    gateway_port: int = 8080
    metrics_port: int = 8002
    model: str = "qwen"
    out: str = ""
    base: str = "/v1"  # of the gateway's URLs

    @cached_property
    def load(self) -> Scenario:
        given = parse_length(self.input_tokens, "input-tokens") if self.input_tokens else None
        wanted = parse_length(self.output_tokens, "output-tokens") if self.output_tokens else None
        settings = ScenarioSettings(seed=self.seed, language=self.language, input_tokens=given, output_tokens=wanted)
        return load_scenario(self.scenario, settings)

    @cached_property
    def process(self) -> Arrivals:
        """What was asked for, else what the scenario wants; without either a rate means Poisson, none a closed loop."""
        wanted = self.arrivals or (self.load.arrivals if self.rate or self.load.times else "")
        return parse_arrivals(wanted or ("poisson" if self.rate else "closed"))

    @cached_property
    def limits(self) -> Slo:
        return parse_slo(self.slo)

    @property
    def secure(self) -> bool:
        return self.host.startswith("https://")

    @property
    def name(self) -> str:
        """The host alone; an IPv6 address without brackets."""
        return self.host.removeprefix("https://")

    def url(self, port: int, path: str, *, secure: bool = False) -> str:
        return f"http{'s' * secure}://{authority(self.name, port)}{path}"

    @property
    def lanes(self) -> tuple[str, ...]:
        return ("grpc", "sse") if self.transport == "both" else (self.transport,)

    @property
    def end(self) -> float:
        """When the last request may start: warm-up and measured window."""
        return self.warmup + self.duration

    def schedule(self) -> tuple[float, ...]:
        """All arrivals, warm-up included. A profile (ramp, staircase) starts after a warm-up at its first rate."""
        if self.process.kind == "trace":
            speed = self.rate or 1.0
            times = self.load.times[: self.requests]
            return tuple(self.warmup + t / speed for t in times if t / speed < self.duration)
        assert self.rate is not None
        first = self.rate / self.process.parameter if self.process.kind == "staircase" else self.rate
        calm = Arrivals("poisson") if self.process.kind in ("ramp", "staircase") else self.process
        warm = schedule(calm, 0.1 * first if self.process.kind == "ramp" else first, self.warmup, self.seed + 1)
        measured = schedule(self.process, self.rate, self.duration, self.seed, self.requests)
        return (*warm, *(self.warmup + t for t in measured))

    @property
    def planned(self) -> int:
        """Arrivals of an open loop that are measured."""
        return sum(t >= self.warmup for t in self.schedule())

    def share(self, index: int, count: int) -> int | None:
        """In a closed loop, worker ``index``'s part of ``requests``: that of its users (every ``count``-th)."""
        if self.requests is None or self.process.is_open:
            return None
        before = (min(k, self.users % count) + k * (self.users // count) for k in (index, index + 1))
        low, high = (self.requests * users // self.users for users in before)
        return high - low

    def check(self) -> RunPlan:
        """Raise ``LoadtestError`` for whatever would fail later."""
        for name in ("duration", "timeout"):
            _positive(name, getattr(self, name))
        if self.transport not in TRANSPORTS:
            raise LoadtestError(f"transport: {self.transport!r} is not one of {', '.join(TRANSPORTS)}")
        if not self.stream and self.transport != "grpc":
            raise LoadtestError(
                f"stream: without it only grpc can be measured, not {self.transport}: add TRANSPORT=grpc"
            )
        if not 1 <= self.users <= 100_000:
            raise LoadtestError(f"users: {self.users} must be from 1 to 100000")
        for name in ("grpc_port", "gateway_port", "metrics_port"):
            if not 1 <= getattr(self, name) <= 65_535:
                raise LoadtestError(f"{name.replace('_', '-')}: {getattr(self, name)} is not a port from 1 to 65535")
        if not 0 <= self.seed <= MAX_SEED:
            raise LoadtestError(f"seed: {self.seed} must be from 0 to {MAX_SEED}")
        self._check_rate()
        self._check_requests()
        _ = self.limits
        self.load.conversation(0).request(0)  # a bad language or length shows here
        if self.process.is_open and not self.planned:
            raise LoadtestError(f"rate: no request falls into {self.duration:g} s: raise the rate or the duration")
        return self

    def _check_rate(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1e5:
            raise LoadtestError(f"rate: {self.rate:g} must be above 0 and at most 100000 requests per second")
        kind = self.process.kind
        if kind == "trace" and not self.load.times:
            raise LoadtestError("arrivals: trace needs a scenario with timestamps: use SCENARIO=trace or a .jsonl file")
        if self.process.is_open and kind != "trace" and self.rate is None:
            raise LoadtestError(f"rate: {kind} arrivals need one: add RATE=5 (requests per second)")
        if kind == "closed" and self.rate is not None:
            raise LoadtestError(f"rate: a closed loop has no rate, got {self.rate:g}: drop --rate or --arrivals")

    def _check_requests(self) -> None:
        if self.requests is None:
            return
        if not 1 <= self.requests <= MAX_ARRIVALS:
            raise LoadtestError(f"requests: {self.requests} must be from 1 to {MAX_ARRIVALS}")
        kind = self.process.kind
        if kind in ("ramp", "staircase") and self.duration == WEEK:
            raise LoadtestError(
                f"duration: {kind} arrivals take their shape from it: add DURATION=5m, or drop REQUESTS"
            )
        if kind == "trace" and self.requests > len(self.load.times):
            raise LoadtestError(
                f"requests: {self.requests} are more than the {len(self.load.times)} of {self.scenario}: drop REQUESTS,"
                " or set RATE and ARRIVALS=poisson to send them again and again"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan_from(options: Mapping[str, Any]) -> RunPlan:
    """A checked plan from command-line options (or the web form's): strings and numbers alike. ``LoadtestError``."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(RunPlan):
        raw = options.get(field.name)
        if raw is None or raw == "":
            continue
        values[field.name] = _convert(field.name, raw)
    if "requests" in values:
        values.setdefault("duration", WEEK)
    values |= _target(str(values.get("host", RunPlan.host)).strip(), values.get("transport") == "sse")
    return RunPlan(**values).check()


def plan_of_command(options: Mapping[str, Any]) -> RunPlan:
    """A checked plan from a command line of ours, where ``users`` that were not given are "". ``LoadtestError``."""
    plan = plan_from(options)
    if options["users"] and plan.process.is_open:
        why = f"{plan.process} arrivals start requests at their time, however many are open"
        raise LoadtestError(
            f"users: {plan.users} of them have nothing to do: {why}: drop USERS, or RATE for a closed loop"
        )
    return plan


def _convert(name: str, raw: Any) -> Any:
    default = getattr(RunPlan, name)
    if name in ("duration", "warmup", "drain", "timeout"):
        return parse_duration(raw, name)
    if isinstance(default, bool):
        return raw if isinstance(raw, bool) else _yes(name, str(raw))
    kind = {"rate": float, "requests": int}.get(name, type(default))
    try:
        str(raw).encode()  # neither a worker nor a report could be told of a name in another encoding
    except UnicodeEncodeError:
        raise LoadtestError(f"{name.replace('_', '-')}: {raw!a} is not UTF-8: rename it") from None
    try:
        return kind(raw)
    except (TypeError, ValueError):
        raise LoadtestError(f"{name.replace('_', '-')}: {raw!r} is not a {'whole ' * (kind is int)}number") from None


def _yes(name: str, text: str) -> bool:
    if text.lower() not in YES + NO:
        raise LoadtestError(f"{name.replace('_', '-')}: {text!r} is neither yes nor no")
    return text.lower() in YES


def parse_duration(raw: Any, name: str = "duration") -> float:
    """``90``, ``90s``, ``1m30s``, ``2h``, ``500ms`` → seconds."""
    if isinstance(raw, (int, float)):
        return float(raw)
    match = _DURATION.match(str(raw).strip())
    if match is None or not any(match.groups()):
        raise LoadtestError(f"{name}: {raw!r} is not a duration: write e.g. 60s, 5m or 1h30m")
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _positive(name: str, value: float) -> None:
    if not 0 < value <= WEEK:
        raise LoadtestError(f"{name}: {value:g} s must be above 0 and at most a week")


def _target(text: str, sse: bool) -> dict[str, Any]:
    """``http://name/`` → ``name``; ``https://name`` is kept, because it also means TLS.

    Over SSE alone a port and a path are those of a base URL as OpenAI's clients take it (``https://llm.example/api/v1``).
    Otherwise they are refused: gRPC, SSE and metrics have a port each, and a run must not measure another server than
    the one that was named."""
    bare = text if text.count(":") < 2 or "[" in text else bracketed(text)
    try:
        parts = urlsplit(text if "://" in text else f"//{bare}")
    except ValueError:  # brackets around something other than an IPv6 address
        parts = urlsplit("")
    if not parts.hostname or parts.scheme not in ("", "http", "https"):
        raise LoadtestError(f"host: {text!r} is not a host name: write e.g. 127.0.0.1 or https://llm.example.org")
    port = parts.netloc.rpartition("]")[2].partition(":")[2]
    path = parts.path.rstrip("/").removesuffix("/chat/completions")  # as other tools take it
    name = f"https://{parts.hostname}" if parts.scheme == "https" else parts.hostname
    is_base_url = (port or path) and (port.isdecimal() or not port) and not (parts.query or parts.username)
    if sse and is_base_url:
        default = 443 if parts.scheme == "https" else 80
        return {"host": name, "gateway_port": int(port or default), "base": path or RunPlan.base}
    if port:
        ports = f"GATEWAY_PORT={port} or GRPC_PORT={port}, whichever it is, and METRICS_PORT"
        raise LoadtestError(f"host: {text!r} has a port: write HOST={text.partition(f':{port}')[0]} with {ports}")
    if path or parts.query or parts.username:
        raise LoadtestError(f"host: {text!r} is more than a host: write {parts.scheme or 'http'}://{parts.hostname}")
    return {"host": name}
