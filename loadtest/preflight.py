"""Is the target there and ready? One clear line when it is not, before a single request is scheduled."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from loadtest.errors import LoadtestError
from loadtest.plan import Plan
from loadtest.transports.grpc_stream import channel

TIMEOUT_S = 5.0
START = "is it running? start it with `make serve`, or set HOST"


@dataclass(slots=True)
class Target:
    """What the server says of itself; it goes into the report."""

    sse_model: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def check_target(plan: Plan) -> Target:
    """Raises ``LoadtestError``."""
    target = Target()
    for lane in plan.lanes:
        (_check_grpc if lane == "grpc" else _check_sse)(plan, target)
    return target


def _check_grpc(plan: Plan, target: Target) -> None:
    where = f"{plan.host.removeprefix('https://')}:{plan.grpc_port}"
    connection = channel(where, plan.host.startswith("https://"))
    stub = service_pb2_grpc.GRPCInferenceServiceStub(connection)
    try:
        ready = stub.ModelReady(pb.ModelReadyRequest(name=plan.model), timeout=TIMEOUT_S, wait_for_ready=False)
        server = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise LoadtestError(f"host: no Triton gRPC server answers at {where}: {START}") from None
        raise LoadtestError(f"host: {where} answered {error.code().name}: {error.details()}") from None
    finally:
        connection.close()
    if not ready.ready:
        raise LoadtestError(f"model: {plan.model!r} is not ready at {where}: wait for the server, or set MODEL")
    target.facts["triton"] = {"server": server.name, "version": server.version, "model": plan.model}


def _check_sse(plan: Plan, target: Target) -> None:
    scheme, host = ("https", plan.host[8:]) if plan.host.startswith("https://") else ("http", plan.host)
    url = f"{scheme}://{host}:{plan.gateway_port}/v1/models"
    key = os.environ.get("OPENAI_API_KEY", "")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            models = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise LoadtestError(f"host: {url} answered {error.code}: is the model ready, and OPENAI_API_KEY set?") from None
    except OSError as error:
        raise LoadtestError(f"host: no gateway answers at {url} ({error}): {START}") from None
    except (ValueError, KeyError, TypeError):
        raise LoadtestError(f"host: {url} is not an OpenAI-compatible server: set GATEWAY_PORT") from None
    if not models:
        raise LoadtestError(f"model: {url} lists no model: wait until the server is ready")
    target.sse_model = str(models[0]["id"])
    target.facts["gateway"] = {"model": target.sse_model}
