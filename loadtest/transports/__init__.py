"""Make the transport of a lane. Imported by workers only: it opens sockets."""

from __future__ import annotations

from loadtest.plan import RunPlan
from loadtest.transports.base import Transport
from loadtest.transports.dialect import Dialect
from loadtest.transports.grpc_stream import Connections, GrpcTransport
from loadtest.transports.sse import SseTransport


def open_transport(lane: str, plan: RunPlan, sse_model: str, *, packed: bool, dialect: Dialect) -> Transport:
    """``lane`` is grpc or sse; ``sse_model``, ``packed`` and ``dialect`` are those of ``preflight.TargetFacts``."""
    ignore_eos = not plan.respect_eos
    if lane == "grpc":
        server = Connections(plan.name, plan.grpc_port, secure=plan.secure)
        return GrpcTransport(
            server, plan.model, timeout=plan.timeout, ignore_eos=ignore_eos, streamed=plan.stream, packed=packed
        )
    return SseTransport(
        plan.name, plan.gateway_port, sse_model, base=plan.base, secure=plan.secure, timeout=plan.timeout,
        ignore_eos=ignore_eos, dialect=dialect,
    )  # fmt: skip
