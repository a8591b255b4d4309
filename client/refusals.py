"""Turns what a server answers (an error in a stream, a gRPC status or an HTTP status) into an exception.

Errors of our own steps carry their code word (``contract/errors.py``). The few that Triton, gRPC or another server
writes itself carry none; the two tables and two tuples of texts below are all that is known of those.

The metadata ``triton_grpc_error: true`` would turn errors in a stream into statuses, but Triton 2.51 then handles every
error in a way that it logs as "HandleCancellation called even when the context was not cancelled", and some thousand
bad requests end in SIGSEGV (seen: 620 to 2,600; without the metadata none in 20,000).
"""

from __future__ import annotations

import re

from contract.errors import (
    CODES,
    Cancelled,
    ClientError,
    ConnectError,
    ModelNotFound,
    RequestTimeout,
    ServingError,
    answered,
    from_wire,
    plain,
)

_BY_GRPC = {
    "INVALID_ARGUMENT": "invalid_request", "OUT_OF_RANGE": "invalid_request", "UNIMPLEMENTED": "unsupported",
    "ALREADY_EXISTS": "duplicate_id", "NOT_FOUND": "model_not_found", "UNAUTHENTICATED": "not_authorized",
    "PERMISSION_DENIED": "not_authorized", "RESOURCE_EXHAUSTED": "queue_full", "UNAVAILABLE": "engine_unavailable",
}  # fmt: skip
_BY_HTTP = {
    400: "invalid_request", 401: "not_authorized", 403: "not_authorized", 404: "model_not_found", 409: "duplicate_id",
    413: "invalid_request", 422: "invalid_request", 429: "queue_full", 501: "unsupported", 502: "engine_unavailable",
    503: "engine_unavailable", 504: "engine_unavailable",
}  # fmt: skip
_TRITON_TEXTS = (  # in a stream, where Triton's own errors have no status
    ("unknown model", "model_not_found"),
    ("inference input", "invalid_request"), ("inputs but got", "invalid_request"), ("batch-size", "invalid_request"),
    ("Server is stopping", "engine_unavailable"),
)  # fmt: skip
# "Stub process 'detokenizer_0_0' is not healthy.": with or without the name, and under any status
_STUB_ENDED = re.compile(r"Stub process (?:'(\w+?)_\d+_\d+' )?(?:is not healthy|exited unexpectedly)")
# "… 'qwen' has no available versions", "… 'qwen' version 1 is not at ready state": Triton knows the model, but loads or
# unloads it; of a name that it does not know it says "… 'x' is not found"
_NOT_READY = re.compile(r"unknown model:? '([^']+)' (?:has no available versions|.*is not at ready state)")
_CONNECTION_TEXTS = (  # gRPC's, with status UNAVAILABLE; through a proxy a lost server is a reset stream, UNKNOWN
    "failed to connect", "connection refused", "connection reset", "socket closed", "connection timed out",
    "broken pipe", "name resolution", "dns resolution", "hostname lookup", "network is unreachable", "goaway",
    "transport closed", "endpoint closing", "no route to host", "stream removed", "rst_stream",
)  # fmt: skip
_OTHER_NAME = "its certificate is for another name: use the name that it is for"
_NO_CLIENT = "it wants a client's certificate that its CA has signed (QWEN_TLS_CERT and QWEN_TLS_KEY, or tls=)"
_NO_TLS = "it may speak no TLS: write host:port without grpcs://, or http://"
_TLS_TEXTS = (  # gRPC's and Python's, in lower case, and what to do
    ("certificate_verify_failed: hostname mismatch", _OTHER_NAME),
    ("certificate_verify_failed: ip address mismatch", _OTHER_NAME),
    ("hostname verification check failed", _OTHER_NAME),
    ("certificate_verify_failed", "nobody known here has signed its certificate: name its CA (QWEN_TLS_CA or tls=)"),
    ("certificate_required", _NO_CLIENT), ("unknown_ca", _NO_CLIENT),
    ("unwrap failed", _NO_CLIENT),  # a TLS 1.3 server refuses only after the client considers the connection open
    ("handshake read failed", _NO_TLS), ("wrong_version_number", _NO_TLS),
)  # fmt: skip

_NO_GRPC = ("failed parsing http/2", "trying to connect an http1.x server")
_NO_HTTP = ("illegal status line", "illegal request line")
RESTARTING = "; it may be restarting"


def from_text(message: str) -> ClientError:
    """The exception for an ``error_message`` inside a stream."""
    text = plain(message)
    triton = next((word for part, word in _TRITON_TEXTS if part in text), "internal_error")
    return from_wire(message) or _unready(text) or answered(triton, text)


def _unready(text: str) -> ClientError | None:
    """The error for Triton's report that a model loads or unloads, or that its process hangs or has ended, worded as
    the engine step words it."""
    if model := _NOT_READY.search(text):
        problem = f"the server is starting or stopping {model[1]!r}"
        return answered("engine_unavailable", f"engine: {problem}; try again soon")
    stub = _STUB_ENDED.search(text)
    if stub is None:
        return None
    process = f"the {stub[1]} process" if stub[1] else "a model process"
    return answered("engine_unavailable", f"engine: {process} does not answer; the server restarts it, try again soon")


def no_openai(url: object, status: int) -> ModelNotFound:
    """Another server's 404 or 405, Triton's own HTTP and metrics ports for two: no body of OpenAI's. Waiting would not
    help."""
    return ModelNotFound(
        f"no OpenAI server: {url} answers HTTP {status}; write the gateway's address (make serve prints it), or "
        "HOST:PORT without http:// if it is gRPC"
    )


def unreachable(address: str, why: str, *, known: bool = False) -> ConnectError:
    """``known``: it has answered before."""
    text = why.lower()
    if remedy := next((remedy for part, remedy in _TLS_TEXTS if part in text), ""):
        return ConnectError(f"no TLS with {address}: {remedy}")
    if any(part in text for part in _NO_GRPC):
        return ConnectError(f"{address} answers, but not in gRPC: write http://{address} if it is the gateway")
    if any(part in text for part in _NO_HTTP):
        target = address.partition("://")[2]
        return ConnectError(f"{address} answers, but not in HTTP/1.1: write {target} without http:// if it is gRPC")
    if known:
        return ConnectError(f"no server answers at {address} ({_reason(why)}){RESTARTING}")
    if "socket closed" in text:
        return ConnectError(
            f"{address} closed the connection, as Triton's HTTP and metrics ports do (make serve prints the gRPC one) "
            "and ports that speak TLS (write grpcs://)"
        )
    return ConnectError(f"no server answers at {address} ({_reason(why)}); start one with: make serve")


def lost(address: str, why: str, tokens: int) -> ConnectError:
    """The connection ended in the middle of an answer."""
    after = f"after {tokens} token{'s' * (tokens != 1)}: " if tokens else ""
    return ConnectError(f"{address} went away in the middle of the answer ({after}{_reason(why)}){RESTARTING}")


def _reason(why: str) -> str:
    """The last part of gRPC's chain of reasons."""
    reason = why.rsplit(": ", 1)[-1]
    return reason if "[" in reason else reason.removesuffix("]")


def from_grpc(status: str, details: str, address: str) -> ClientError:
    """The exception for a gRPC status; ``status`` is the name of a ``grpc.StatusCode``."""
    message = plain(details) or status
    if status == "CANCELLED":
        return Cancelled(message)
    if status == "DEADLINE_EXCEEDED":
        return RequestTimeout("total", 0.0)
    if error := from_wire(details) or _unready(message):
        return error
    if status in ("UNAVAILABLE", "UNKNOWN", "INTERNAL") and any(sign in message.lower() for sign in _CONNECTION_TEXTS):
        return unreachable(address, message)
    return answered(_BY_GRPC.get(status, "internal_error"), message)


def from_http(
    status: int, message: str, *, code: str = "", param: str = "", retry_after: float | None = None
) -> ClientError:
    """The exception for an HTTP status with OpenAI's error object (``code``, ``param``)."""
    ours = CODES.get(code)
    known = ours is not None and issubclass(ours.kind, ServingError)
    return answered(code if known else _BY_HTTP.get(status, "internal_error"), message, param, retry_after, code)
