"""What each exception of the client library becomes over HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping

from client import errors as library
from serving.gateway.schema.errors import ApiError

# What the tokenizer and the engine say of a prompt (or prompt + max_tokens) beyond the context.
_TOO_LONG = re.compile(r"the prompt has (at least )?\d+ tokens|exceeds the context of \d+")

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
