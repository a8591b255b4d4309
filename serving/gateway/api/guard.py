"""Common handling for endpoints that do not generate: API key, errors in OpenAI's shape, request counting."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.gateway.api import http
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.writer import Gone, Writer
from serving.gateway.schema.errors import ApiError

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
ErrorBody = Callable[[ApiError], bytes]


def response_of(error: ApiError, error_body: ErrorBody = ApiError.body) -> Response:
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    headers |= {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return Response(error_body(error), error.status, headers, "application/json")


class Guarded:
    """ASGI around a handler: API key unless ``public``, errors in OpenAI's shape unless ``error_body`` is given.
    ``optional``: none is needed, but a wrong one is refused."""

    def __init__(
        self, gateway: Gateway, handler: Handler, *, public: bool = False, error_body: ErrorBody = ApiError.body,
        optional: bool = False,
    ) -> None:  # fmt: skip
        self._gateway, self._handler, self._public, self._error_body = gateway, handler, public, error_body
        self._optional = optional

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = http.credentials(scope)
            if not self._public and (key or not self._optional):
                self._gateway.keys.authenticate(key)
            response = await self._handler(Request(scope, receive))
        except ApiError as error:
            if error.close:
                await Writer(send, "").error(error, self._error_body(error), receive)
                return
            response = response_of(error, self._error_body)
        except Gone:
            return
        except Exception:
            log.exception("%s failed", scope["path"])
            broken = ApiError(500, "the server failed on this request; see the gateway's log")
            response = response_of(broken, self._error_body)
        self._gateway.metrics.answered(_label(scope), response.status_code)
        await response(scope, receive, send)


def _label(scope: Scope) -> str:
    """A path as a metrics label, with a bounded number of values."""
    path: str = scope["path"]
    return "/v1/models" if path.startswith("/v1/models") else path if len(path) < 20 and "." not in path else "other"
