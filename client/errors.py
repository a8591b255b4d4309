"""Every exception this library raises, and the one table that maps servers' answers onto it.

ClientError
├── ConnectError              nobody answers at that address, or the connection was lost
├── RequestTimeout            ``phase``: connect, first token, between chunks, total
├── ServerRefused             the server answered with an error          gRPC code            HTTP
│   ├── InvalidRequest        a field is wrong: ``field``                INVALID_ARGUMENT     400, 413, 422
│   │   └── Unsupported       the loaded engine cannot honour it         UNIMPLEMENTED        400, 501
│   ├── DuplicateId           a request with this id is running          ALREADY_EXISTS       409
│   ├── ModelNotFound                                                    NOT_FOUND            404
│   ├── NotAuthorized         API key missing or wrong                   UNAUTHENTICATED      401, 403
│   ├── Overloaded            queue full: ``retry_after`` seconds        UNAVAILABLE queue:   429
│   ├── EngineUnavailable     engine dead or starting                    UNAVAILABLE          503
│   └── ServerError           the server's own fault                     INTERNAL, UNKNOWN    500
├── StreamBroken              the stream broke its contract
│   ├── ChunkMissing          chunk_index has a gap or went back
│   └── StreamCut             it ended without a finish reason
└── Cancelled                 somebody stopped the request

Only ConnectError, Overloaded and EngineUnavailable are ever retried, and only before the first chunk.
"""

from __future__ import annotations

import re

# Triton puts the failing step before a step's message: "in ensemble 'qwen', …".
_ENSEMBLE_PREFIX = re.compile(r"^(?:in ensemble '[^']*', )+")
_FIELD = re.compile(r"^([A-Za-z_][\w.\[\]]*)(?: \w+)?: \S")  # `guided_decoding_guide_type regex: …` names its value
_CONNECTION = (
    "failed to connect", "connection refused", "connection reset", "socket closed", "connection timed out",
    "broken pipe", "name resolution", "dns resolution", "network is unreachable", "goaway", "transport closed",
    "endpoint closing", "no route to host",
)  # fmt: skip


class ClientError(Exception):
    """Root of the tree above."""


class ConnectError(ClientError):
    """Nobody answers at that address, or the connection was lost in the middle."""


class RequestTimeout(ClientError):
    """``phase`` says which bound was passed: ``connect``, ``first token``, ``between chunks`` or ``total``."""

    def __init__(self, phase: str, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s ({phase}); the request was stopped")
        self.phase = phase


class ServerRefused(ClientError):
    """The server answered with an error. ``field`` is the request field it names, or ``""``."""

    def __init__(self, message: str, *, field: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.retry_after = retry_after


class InvalidRequest(ServerRefused):
    """A field of the request is wrong; the message reads ``field: problem, value, remedy``."""


class Unsupported(InvalidRequest):
    """The loaded engine cannot honour the field."""


class DuplicateId(ServerRefused):
    """A request with this id is still running."""


class ModelNotFound(ServerRefused):
    """The server has no model of that name."""


class NotAuthorized(ServerRefused):
    """The API key is missing or wrong."""


class Overloaded(ServerRefused):
    """The queue is full. ``retry_after`` is the server's estimate in seconds, when it gives one."""


class EngineUnavailable(ServerRefused):
    """The engine is dead, starting or draining."""


class ServerError(ServerRefused):
    """The server's own fault."""


class StreamBroken(ClientError):
    """The stream broke its contract."""


class ChunkMissing(StreamBroken):
    """``chunk_index`` has a gap or went back: text would be lost or mixed up."""


class StreamCut(StreamBroken):
    """The stream ended without a finish reason."""


class Cancelled(ClientError):
    """The request was stopped: by ``cancel()``, by ``stop`` with its id, or by the server shutting down."""


_GRPC: dict[str, type[ServerRefused]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": Unsupported,
    "ALREADY_EXISTS": DuplicateId,
    "NOT_FOUND": ModelNotFound,
    "UNAUTHENTICATED": NotAuthorized,
    "PERMISSION_DENIED": NotAuthorized,
    "RESOURCE_EXHAUSTED": Overloaded,
}
_HTTP: dict[int, type[ServerRefused]] = {
    400: InvalidRequest, 413: InvalidRequest, 422: InvalidRequest, 501: Unsupported, 409: DuplicateId,
    404: ModelNotFound, 401: NotAuthorized, 403: NotAuthorized, 429: Overloaded, 502: EngineUnavailable,
    503: EngineUnavailable, 504: EngineUnavailable,
}  # fmt: skip


def clean(message: str) -> str:
    """Triton's error text without the ensemble's prefix, on one line."""
    return " ".join(_ENSEMBLE_PREFIX.sub("", message).split())


def field_of(message: str) -> str:
    """The request field that a ``field: problem`` message names, or ``""``."""
    match = _FIELD.match(message)
    return match.group(1) if match else ""


def from_grpc(code: str, details: str, address: str) -> ClientError:
    """The exception for a gRPC status; ``code`` is the name of a ``grpc.StatusCode``."""
    message = clean(details) or code
    if code == "CANCELLED":
        return Cancelled(message)
    if code == "DEADLINE_EXCEEDED":
        return RequestTimeout("total", 0.0)
    if code == "UNAVAILABLE":
        return _unavailable(message, address)
    return _GRPC.get(code, ServerError)(message, field=field_of(message))


def _unavailable(message: str, address: str) -> ClientError:
    if message.startswith("queue:"):
        return Overloaded(message, field="queue")
    if not message.startswith("engine:") and any(sign in message.lower() for sign in _CONNECTION):
        return ConnectError(
            f"no server answers at {address} ({message.rsplit(': ', 1)[-1]}); start one with: make serve"
        )
    return EngineUnavailable(message)


# Errors inside a stream carry no code; these are the texts of contract/errors.py's users and of Triton itself.
# The metadata `triton_grpc_error: true` would give codes, but Triton 2.51 then handles every error in a way that it
# logs as "HandleCancellation called even when the context was not cancelled", and some thousand bad requests end in
# SIGSEGV (seen: 620 to 2,600; without the metadata none in 20,000).
_TEXTS: tuple[tuple[re.Pattern[str], type[ServerRefused]], ...] = (
    (re.compile(r"^request[ _]id: .* is running"), DuplicateId),
    (re.compile(r"^[^:]+: .*(the loaded engine cannot honour it|is not served; leave it out)"), Unsupported),
    (re.compile(r"unknown model|has no available versions"), ModelNotFound),
    (re.compile(r"inference input|expected \d+ inputs|batch-size"), InvalidRequest),
)


def from_text(message: str, address: str) -> ClientError:
    """The exception for an ``error_message`` inside a stream, which carries no code."""
    message = clean(message)
    if message.startswith(("queue:", "engine:")):
        return _unavailable(message, address)
    field = field_of(message)
    otherwise = InvalidRequest if field else ServerError
    return next((kind for text, kind in _TEXTS if text.search(message)), otherwise)(message, field=field)


def from_http(
    status: int, message: str, *, code: str = "", param: str = "", retry_after: float | None = None
) -> ClientError:
    """The exception for an HTTP status with OpenAI's error body."""
    kind = Unsupported if code == "unsupported" else _HTTP.get(status, ServerError)
    return kind(message, field=param or field_of(message), retry_after=retry_after)
