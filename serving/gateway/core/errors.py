"""Errors in OpenAI's shape, and what each client-library exception becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from client import errors as library

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 409: "conflict_error", 413: "invalid_request_error", 415: "invalid_request_error",
    429: "rate_limit_error", 503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip
# What the tokenizer and the engine say of a prompt (or prompt + max_tokens) beyond the context.
_TOO_LONG = re.compile(r"the prompt has (at least )?\d+ tokens|exceeds the context of \d+")


class ApiError(Exception):
    """An answer other than 200. ``param`` is the request field it concerns, or ``None``."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        retry_after: int | None = None, close: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.close = retry_after, close

    def body(self) -> bytes:
        """``{"error": {message, type, param, code}}``."""
        kind = _TYPES.get(self.status, "server_error")
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})

    def event(self, number: int | None = None) -> bytes:
        """The same as the last event of a stream; ``status`` says what the status would have been.

        With ``number`` as the typed event of /v1/responses, which has the fields at its top too."""
        error: dict[str, Any] = orjson.loads(self.body())["error"]
        whole = {"error": {**error, "status": self.status}}
        if number is None:
            return b"data: " + orjson.dumps(whole) + b"\n\n"
        own = {name: error[name] for name in ("code", "message", "param")}
        return (
            b"event: error\ndata: "
            + orjson.dumps({"type": "error", "sequence_number": number, **own, **whole})
            + b"\n\n"
        )


def bad_request(param: str, problem: str, code: str | None = None) -> ApiError:
    return ApiError(400, f"{param}: {problem}", param=param, code=code)


_STATUS: tuple[tuple[type[library.ClientError], int, str | None], ...] = (
    (library.Unsupported, 400, "unsupported"),
    (library.InvalidRequest, 400, None),
    (library.DuplicateId, 409, "duplicate_id"),
    (library.ModelNotFound, 503, "model_not_ready"),  # the gateway's own model: Triton has not loaded it
    (library.Overloaded, 429, "queue_full"),
    (library.EngineUnavailable, 503, "engine_unavailable"),
    (library.ConnectError, 503, "engine_unavailable"),
    (library.RequestTimeout, 504, "timeout"),
    (library.Cancelled, 503, "cancelled"),
)


def from_library(error: library.ClientError, renamed: Mapping[str, str], retry_after: int) -> ApiError:
    """``renamed``: Triton's tensor names -> the fields of this request, so that callers read their own names."""
    status, code = next(((s, c) for kind, s, c in _STATUS if isinstance(error, kind)), (500, "internal_error"))
    message, param = str(error), None
    if status == 400 and isinstance(error, library.ServerRefused) and error.field:
        first = error.field
        param = renamed.get(first, first)
        message = param + message.removeprefix(first) if message.startswith(first) else message
        code = "context_length_exceeded" if _TOO_LONG.search(message) else code
    if isinstance(error, library.ConnectError):
        message = "engine: Triton does not answer; try again in a few seconds"
    return ApiError(status, message, param=param, code=code, retry_after=retry_after if status in (429, 503) else None)
