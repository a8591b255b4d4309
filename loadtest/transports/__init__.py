"""Make the transport of a lane. Imported by workers only: it opens sockets."""

from __future__ import annotations

from loadtest.plan import RunPlan
from loadtest.transports.base import Transport
from loadtest.transports.grpc_stream import Connections, GrpcTransport
from loadtest.transports.sse import SseTransport


def open_transport(lane: str, plan: RunPlan, sse_model: str, packed: bool) -> Transport:
    """``lane`` is grpc or sse; ``sse_model``, ``packed``: as ``preflight.TargetFacts``."""
    secure, host = plan.host.startswith("https://"), plan.host.removeprefix("https://")
    ignore_eos = not plan.respect_eos
    if lane == "grpc":
        server = Connections(host, plan.grpc_port, secure=secure)
        return GrpcTransport(
            server, plan.model, timeout=plan.timeout, ignore_eos=ignore_eos, streamed=plan.stream, packed=packed
        )
    return SseTransport(host, plan.gateway_port, sse_model, secure=secure, timeout=plan.timeout, ignore_eos=ignore_eos)
