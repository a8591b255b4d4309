"""Turns each exception of the client library into an HTTP error."""

from __future__ import annotations

import re
from collections.abc import Mapping

from contract.errors import CODES, ClientError, ConnectError, ServingError
from serving.gateway.schema.errors import ApiError
from serving.outage import Outage

_TENSOR = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")  # what may be a tensor's name; no English word has an underscore


def from_library(error: ClientError, renamed: Mapping[str, str], queue_seconds: int, outage: Outage) -> ApiError:
    """``renamed``: Triton's tensor names -> the fields of this request, so that callers read their own names.

    ``queue_seconds``: when a full queue is worth another try. ``outage``: why Triton does not answer and until when,
    where the launcher knows it."""
    row = CODES[type(error).code]
    message, param = str(error), None
    if row.http == 400 and isinstance(error, ServingError) and error.field:
        first = error.field
        param = renamed.get(first, first)
        message = param + message.removeprefix(first) if message.startswith(first) else message
        message = _TENSOR.sub(lambda name: renamed.get(name[0], "") or name[0], message)
    if isinstance(error, ConnectError):
        message = f"engine: {outage.why or 'Triton does not answer'}; try again when /health/ready is 200"
    wait = {429: queue_seconds, 503: outage.retry_after()}.get(row.http)
    return ApiError(row.http, message, param=param, code=row.api, retry_after=wait)
