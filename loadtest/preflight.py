"""Checks that the target is there and ready, before a request is scheduled; if not, one line says why."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from client import credentials, refusals
from contract.authority import authority
from loadtest.errors import LoadtestError, TransportError
from loadtest.plan import RunPlan
from loadtest.scenarios.base import Request
from loadtest.transports import open_transport
from loadtest.transports.credentials import http_headers
from loadtest.transports.dialect import DIALECTS, Dialect
from loadtest.transports.grpc_stream import Connections

TIMEOUT_S = 5.0
ASK_S = 10.0
WRONG = (301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 422)  # statuses that a later attempt would not change
START = "is it running? start it with `make serve`, or set HOST"


@dataclass(slots=True)
class TargetFacts:
    """What the server says about itself. ``facts`` go into the report."""

    sse_model: str = ""  # the gateway's name for the model
    dialect: Dialect = DIALECTS[0]  # the first one that the gateway does not refuse
    packed: bool = False  # whether the model can answer in one tensor, as client/ asks for it
    facts: dict[str, Any] = field(default_factory=dict)


def check_target(plan: RunPlan, *, ask: bool = False) -> TargetFacts:
    """Raises ``LoadtestError``. With ``ask``, a gateway is also asked for one token, to find out what it refuses."""
    _check_out(Path(plan.out or "reports"))
    target = TargetFacts()
    for lane in plan.lanes:
        (_check_grpc if lane == "grpc" else _check_sse)(plan, target)
    if ask and "sse" in plan.lanes:
        _ask(plan, target)
    return target


def _check_out(directory: Path) -> None:
    """Before the run, because afterwards its results would be lost."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return
    except OSError as error:
        raise LoadtestError(
            f'out: {directory} cannot be written ({error.strerror}): name another: ARGS="--out DIR"'
        ) from None


def _check_grpc(plan: RunPlan, target: TargetFacts) -> None:
    server = Connections(plan.name, plan.grpc_port, secure=plan.secure)
    where = authority(plan.name, plan.grpc_port)
    try:
        ready = server.call("ModelReady", pb.ModelReadyRequest(name=plan.model), pb.ModelReadyResponse, TIMEOUT_S)
        facts = server.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, TIMEOUT_S)
        target.packed = bool(ready.ready) and _offers_packed(server, plan.model)
    except TransportError as error:
        if error.kind in ("connect", "timeout", "cut_short"):
            raise LoadtestError(f"host: no Triton gRPC server answers at {where} ({error.message}): {START}") from None
        raise LoadtestError(f"host: {where} answered {error}") from None
    finally:
        server.close()
    if not ready.ready:
        raise LoadtestError(f"model: {plan.model!r} is not ready at {where}: wait for the server, or give --model")
    target.facts["triton"] = {"server": facts.name, "version": facts.version, "model": plan.model}


def _offers_packed(server: Connections, model: str) -> bool:
    request = pb.ModelMetadataRequest(name=model)
    try:
        inputs = server.call("ModelMetadata", request, pb.ModelMetadataResponse, TIMEOUT_S).inputs
    except TransportError as error:
        if error.kind == "unsupported":  # not Triton, but something that has its streaming call
            return False
        raise
    return any(tensor.name == "packed_output" for tensor in inputs)


def _check_sse(plan: RunPlan, target: TargetFacts) -> None:
    url = plan.url(plan.gateway_port, f"{plan.base}/models", secure=plan.secure)
    headers = http_headers()
    request = urllib.request.Request(url, headers=headers)
    try:
        with _opener(plan).open(request, timeout=TIMEOUT_S) as answer:
            names = [str(model["id"]) for model in json.load(answer)["data"]]
    except urllib.error.HTTPError as error:
        if error.code in (404, 405, 501) and plan.model != RunPlan.model:  # it lists no models, and need not
            names = [plan.model]
        else:
            ask = "is the model ready, and OPENAI_API_KEY set? A server that lists no models needs --model"
            if error.code in (401, 403):
                ask = "set OPENAI_API_KEY" if "authorization" not in headers else "the key of OPENAI_API_KEY is refused"
            raise LoadtestError(f"host: {url} answered {error.code}: {ask}") from None
    except (OSError, HTTPException) as error:  # nobody there, or a port that speaks something else
        why = refusals.unreachable(url, str(getattr(error, "reason", "") or type(error).__name__))
        raise LoadtestError(f"host: {why}, or set HOST and GATEWAY_PORT") from None
    except (ValueError, KeyError, TypeError):
        raise LoadtestError(f"host: {url} is not an OpenAI-compatible server: set GATEWAY_PORT") from None
    if not names:
        raise LoadtestError(f"model: {url} lists no model: wait until the server is ready")
    target.sse_model = _gateway_model(plan, names)
    target.facts["gateway"] = {"model": target.sse_model}


def _ask(plan: RunPlan, target: TargetFacts) -> None:
    """Ask for one token in one dialect after another, until the server does not refuse the fields.

    OpenAI's newer models refuse ``max_tokens``; other strict servers know no other name for it, and some have neither
    ``seed`` nor ``stream_options``."""
    request, quick = Request(({"role": "user", "content": "Hello"},), 1, 1), dataclasses.replace(plan, timeout=ASK_S)
    refused: list[TransportError] = []
    for dialect in DIALECTS:
        server = open_transport("sse", quick, target.sse_model, packed=False, dialect=dialect)
        try:
            server.stream(request, lambda *_: True)
        except TransportError as error:
            if error.status in (400, 422):
                refused.append(error)
                if dialect != DIALECTS[-1]:
                    continue
                error = refused[1]  # its objection to the request without extensions
            if error.status in WRONG:
                raise LoadtestError(f"host: the server refuses to answer: {error.message[:200]}") from None
        finally:
            server.close()
        target.dialect = dialect  # whatever else went wrong, the run will tell
        if refused:
            target.facts["gateway"]["refuses"] = refused[0].message[:200]
        return


def _opener(plan: RunPlan) -> urllib.request.OpenerDirector:
    """Opens URLs without the environment's proxy, as the load does too. Raises ``LoadtestError``."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if plan.secure:
        try:
            context = (credentials.tls_of(os.environ) or credentials.Tls()).context()
        except ValueError as error:
            raise LoadtestError(str(error)) from None
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _gateway_model(plan: RunPlan, names: list[str]) -> str:
    """The model that was asked for, else the first. With ``both`` it may be Triton's name, which the gateway lacks."""
    if plan.model in names:
        return plan.model
    if plan.model != RunPlan.model and plan.transport == "sse":
        raise LoadtestError(f"model: {plan.model!r} is not served: use {', '.join(names[:8])}")
    return names[0]
