"""Closed loops of streams over gRPC: N streams of a given shape, kept busy, and what arrived in the measured window.

Several shapes can run side by side against one server, each with figures of its own; gevent does the waiting.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import gevent

from loadtest.scenarios.base import Request
from loadtest.transports.grpc_stream import Connections, GrpcTransport

PROMPT = "Tell me a long story about a river, a bridge and the people who cross it every morning. " * 4


@dataclass(frozen=True, slots=True)
class StreamShape:
    """``streams`` loops, each answer of about ``tokens`` tokens (±25 %, so that their ends spread).

    ``packed``: ask for one tensor per response, as our clients do; else the ensemble's named tensors.
    """

    streams: int
    tokens: int
    prompt: str = PROMPT
    packed: bool = True


@dataclass
class StreamFigures:
    """What arrived from ``opens`` to ``closes`` (``time.monotonic``). ``ttft`` and ``gaps`` in seconds."""

    opens: float
    closes: float
    tokens: int = 0
    messages: int = 0
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / (self.closes - self.opens)


def measure(port: int, shapes: Sequence[StreamShape], warm_up: float, seconds: float) -> list[StreamFigures]:
    """Run all shapes at once for ``warm_up + seconds``, then let every stream end. One result per shape, in order.

    Raises ``RuntimeError`` for a lost token and ``TransportError`` for a failed stream.
    """
    opens = time.monotonic() + warm_up
    results = [StreamFigures(opens, opens + seconds) for _ in shapes]
    connections = Connections("127.0.0.1", port)
    loops = [
        gevent.spawn(_keep_busy, connections, shape, result, random.Random(f"{k}:{shape.streams}:{number}"))
        for k, (shape, result) in enumerate(zip(shapes, results, strict=True))
        for number in range(shape.streams)
    ]
    try:
        gevent.joinall(loops, raise_error=True)
    finally:
        gevent.killall(loops)
        connections.close()
    return results


def _keep_busy(connections: Connections, shape: StreamShape, seen: StreamFigures, lengths: random.Random) -> None:
    transport = GrpcTransport(connections, "qwen", timeout=120, ignore_eos=True, packed=shape.packed)
    while time.monotonic() < seen.closes:
        length = max(1, lengths.randint(shape.tokens * 3 // 4, shape.tokens * 5 // 4))
        _one_stream(transport, Request(({"role": "user", "content": shape.prompt},), length, seed=1), seen)


def _one_stream(transport: GrpcTransport, request: Request, seen: StreamFigures) -> None:
    sent = last = time.monotonic()
    total = 0

    def on_message(now: float, tokens: int) -> bool:
        nonlocal total, last
        if seen.opens <= now < seen.closes:
            seen.tokens += tokens - total
            seen.messages += 1
            (seen.gaps if total else seen.ttft).append(now - (last if total else sent))
        total, last = tokens, now
        return True

    transport.stream(request, on_message)
    if total != request.max_tokens:
        raise RuntimeError(f"{total} of {request.max_tokens} tokens arrived")
