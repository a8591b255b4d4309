"""Every error of this product, drawn once, and the one table of its code words.

ClientError                     what one request can end with
├── ServingError                the server answered with an error
│   ├── InvalidRequest          a field of the request is wrong: ``field``
│   │   ├── ContextTooLong      the prompt, or prompt + max_tokens, is beyond the engine's context
│   │   └── Unsupported         the loaded engine cannot honour the field
│   ├── DuplicateId             a request with this id is still running
│   ├── ModelNotFound           the server has no model of that name
│   ├── NotAuthorized           the API key is missing or wrong
│   ├── DeadlineExceeded        the time that the request gave itself has passed
│   ├── Overloaded              the queue is full: ``retry_after`` seconds, when the server gives an estimate
│   ├── EngineUnavailable       the engine is dead, starting or draining, or failed on this request
│   └── InternalError           any other fault of the server
├── ConnectError                nobody answers at that address, or the connection was lost
├── RequestTimeout              ``phase``: connect, first token, between chunks, total
├── StreamBroken                the stream broke its contract
│   ├── ChunkMissing            chunk_index has a gap or went back
│   └── StreamCut               it ended without a finish reason
└── Cancelled                   somebody stopped the request
OperatorError                   one line for the person who typed a command: what was wrong, the value, what to type
├── EngineDirectoryError        ENGINE_DIR is missing, damaged or does not fit this machine
├── BuildError                  planning, building or verifying an engine
│   └── NotFetched              what a build needs could not be downloaded: no network, or an index without it
└── LoadtestError               a load test that cannot run                    (loadtest/errors.py)

Triton carries an error as one string. The ensemble's steps put the code word before the sentence,
``[context_length_exceeded] messages: the prompt has …`` (``to_wire``); readers look the word up in ``CODES``
(``from_wire``) and show the sentence alone. The sentence of an InvalidRequest reads ``field: problem; remedy``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAX_SHOWN = 80  # characters of a bad value that an error repeats
# Triton puts the failing step before a step's message: "in ensemble 'qwen', …".
_ENSEMBLE = re.compile(r"^(?:in ensemble '[^']*', )+")
_JSON_KINDS = {
    bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"
}  # fmt: skip
_CODED = re.compile(r"\[([a-z_]+)\] ")


def shown(value: object) -> str:
    """A bad value as an error shows it: its ``repr``, cut so that a 1 MB prompt does not come back as a 1 MB error."""
    try:
        return cut(repr(value[: MAX_SHOWN * 2] if isinstance(value, (str, bytes)) else value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"({type(value).__name__} with thousands of digits)"


def shown_json(value: object) -> str:
    """A bad value that came as JSON, in JSON's words (true, not True), and no digits that were not sent."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return cut(json.dumps(value, ensure_ascii=False))


def misplaced(value: object, should: str) -> str:
    """The sentence about a value that came as JSON and ``should`` be of another kind."""
    kind = next((name for of, name in _JSON_KINDS.items() if isinstance(value, of)), "")
    plain = not kind or kind in should or (kind == "a number" and should.startswith("an integer"))
    return f"{shown_json(value)} is wrong: should be {should}{'' if plain else f', not {kind}'}"


def cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


class ClientError(Exception):
    """What one request can end with. ``code`` is a key of ``CODES``, or the word an OpenAI server gave."""

    code: str = "internal_error"


class ServingError(ClientError):
    """The server answered with an error. ``field`` is the request field it names, or ``""``."""

    def __init__(self, message: str, *, field: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.field, self.retry_after = field, retry_after

    @property
    def triton_code(self) -> str:
        """The name of a ``TritonError`` code."""
        return CODES[type(self).code].triton

    def __reduce__(self) -> tuple[Any, ...]:
        return answered, (type(self).code, str(self), self.field, self.retry_after, self.code)


class InvalidRequest(ServingError):
    """``field: problem``; raised before the request costs engine time. ``field`` may be followed by its value."""

    code = "invalid_request"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field=field.partition(" ")[0])


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class Unsupported(InvalidRequest):
    code = "unsupported"


class DuplicateId(ServingError):
    code = "duplicate_id"

    def __init__(self, request_id: str) -> None:
        problem = f"request_id: {shown(request_id)} is running; use a new id for every request"
        super().__init__(problem, field="request_id")


class ModelNotFound(ServingError):
    code = "model_not_found"


class NotAuthorized(ServingError):
    code = "not_authorized"


class Overloaded(ServingError):
    code = "queue_full"


class DeadlineExceeded(ServingError):
    """The request's own ``timeout`` (KServe's parameter, microseconds) has passed before its end."""

    code = "deadline_exceeded"

    def __init__(self, microseconds: int, tokens: int = 0) -> None:
        problem = (
            f"timeout: {microseconds} microseconds have passed after {tokens} tokens; allow more, or ask for fewer"
        )
        super().__init__(problem, field="timeout")


class EngineUnavailable(ServingError):
    code = "engine_unavailable"


def restarting(reason: str) -> str:
    """What a request is told whose engine has died of ``reason``."""
    return f"engine: {reason}; the server restarts it, try again soon"


class InternalError(ServingError):
    code = "internal_error"


class ConnectError(ClientError):
    code = "connect"


class RequestTimeout(ClientError):
    """``phase`` says which bound was passed: ``connect``, ``first token``, ``between chunks`` or ``total``."""

    code = "timeout"

    def __init__(self, phase: str, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s ({phase}); the request was stopped")
        self.phase = phase


class StreamBroken(ClientError):
    code = "stream_broken"


class ChunkMissing(StreamBroken):
    """``chunk_index`` has a gap or went back: text would be lost or mixed up."""

    code = "chunk_missing"


class StreamCut(StreamBroken):
    code = "stream_cut"


class Cancelled(ClientError):
    """The request was stopped: by ``cancel()``, by ``stop`` with its id, or by the server shutting down."""

    code = "cancelled"


class OperatorError(Exception):
    """One line: what was wrong, the value, what to do. Commands print it after ``error:``, without a traceback."""


class EngineDirectoryError(OperatorError):
    """What is wrong with ENGINE_DIR and what to type."""


class BuildError(OperatorError):
    """Planning, building or verifying an engine failed."""


class NotFetched(BuildError):
    """What a build needs could not be downloaded: no network, or an index that does not have it."""


@dataclass(frozen=True, slots=True)
class Code:
    """One code word: the exception, the ``TritonError`` code, and what the gateway answers to its own callers."""

    kind: type[ClientError]
    triton: str
    http: int
    api: str | None  # ``code`` of OpenAI's error object; ``type`` follows from the status (``api_type``)


CODES: dict[str, Code] = {
    "invalid_request": Code(InvalidRequest, "INVALID_ARG", 400, None),
    "context_length_exceeded": Code(ContextTooLong, "INVALID_ARG", 400, "context_length_exceeded"),
    "unsupported": Code(Unsupported, "UNSUPPORTED", 400, "unsupported"),
    "duplicate_id": Code(DuplicateId, "ALREADY_EXISTS", 409, "duplicate_id"),
    "model_not_found": Code(ModelNotFound, "NOT_FOUND", 503, "model_not_ready"),  # the gateway's own model
    "not_authorized": Code(NotAuthorized, "INTERNAL", 500, "internal_error"),  # the gateway's own access to Triton
    "deadline_exceeded": Code(DeadlineExceeded, "UNAVAILABLE", 504, "timeout"),  # as Triton's own for queues
    "queue_full": Code(Overloaded, "UNAVAILABLE", 429, "queue_full"),
    "engine_unavailable": Code(EngineUnavailable, "UNAVAILABLE", 503, "engine_unavailable"),
    "internal_error": Code(InternalError, "INTERNAL", 500, "internal_error"),
    "connect": Code(ConnectError, "UNAVAILABLE", 503, "engine_unavailable"),
    "timeout": Code(RequestTimeout, "UNAVAILABLE", 504, "timeout"),
    "stream_broken": Code(StreamBroken, "INTERNAL", 500, "internal_error"),
    "chunk_missing": Code(ChunkMissing, "INTERNAL", 500, "internal_error"),
    "stream_cut": Code(StreamCut, "INTERNAL", 500, "internal_error"),
    "cancelled": Code(Cancelled, "CANCELLED", 503, "cancelled"),
}
_API_TYPES: dict[int, str] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    409: "conflict_error", 429: "rate_limit_error", 503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip


def api_type(status: int) -> str:
    """``type`` of OpenAI's error object for an HTTP status."""
    return _API_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def answered(
    word: str, message: str, field: str = "", retry_after: float | None = None, code: str = ""
) -> ServingError:
    """The exception of a server's answer: the class of ``word``, the message as it came.

    ``code`` is the server's own word where it is finer than the class (``unknown_field``)."""
    row = CODES.get(word)
    kind = row.kind if row and issubclass(row.kind, ServingError) else InternalError
    error = kind.__new__(kind, message)  # not its __init__: that builds the message from parts
    error.field, error.retry_after = field, retry_after
    if code:
        error.code = code
    return error


def to_wire(error: ServingError) -> str:
    """``[code] sentence``: what survives of an error in Triton's one string."""
    return f"[{type(error).code}] {error}"


def plain(message: str) -> str:
    """Triton's error text without the ensemble's prefix, on one line."""
    return " ".join(_ENSEMBLE.sub("", message).split())


def from_wire(message: str) -> ServingError | None:
    """The error behind Triton's string; ``None`` when no step of ours wrote it."""
    text = plain(message)
    coded = _CODED.match(text)
    if not coded or coded[1] not in CODES:
        return None
    sentence = text[coded.end() :]
    error = answered(coded[1], sentence)
    if isinstance(error, (InvalidRequest, DuplicateId, DeadlineExceeded)):
        error.field = sentence.partition(":")[0].partition(" ")[0]
    return error
