"""Routes, and what every request passes through: origin check, CORS, OpenAI-shaped errors."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.gateway.api import endpoints, http, openapi, page
from serving.gateway.api.guard import ErrorBody, Guarded, Handler, response_of
from serving.gateway.api.operations import Operations
from serving.gateway.api.stored import StoredResponses
from serving.gateway.api.tokenize import Tokenize
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.render import messages
from serving.gateway.schema.errors import ApiError
from serving.gateway.settings import GatewaySettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
OWN = (".localhost", ".local", ".internal")  # nobody can register such names (RFC 6761, 6762; ICANN 2024)


class SameOrigin:
    """Refuses requests from other sites' pages: visiting a page must not let it use this server.

    Programs send no Origin header and are not affected, unless they use a Host name that a stranger may own."""

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...], *, local: bool) -> None:
        """``local``: only this machine can connect, and no key is required. A page whose own name resolves to this
        machine (DNS rebinding) would then count as same-origin, and sends no Origin when it reads. So the Host must be
        an address, a name that no stranger can own (one word, ``OWN``, this machine's) or an allowed origin's."""
        self._app, self._allowed, self._local = app, allowed, local
        self._names = {socket.gethostname(), *(urlsplit(origin).hostname or "" for origin in allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stranger = self._stranger(scope) if scope["type"] == "http" else ""
        if stranger:
            message = (
                f"origin: pages from {stranger[:100]} may not use this server; set GATEWAY_CORS_ORIGINS to allow them"
            )
            await response_of(ApiError(403, message, code="origin_not_allowed"))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _stranger(self, scope: Scope) -> str:
        """The page's origin or host, if it may not use this server; else empty."""
        origin, host = http.header(scope, b"origin"), http.header(scope, b"host")
        if origin:
            return "" if self._is_allowed(origin, host) else origin
        strange = self._local and "." in host and self._is_strange(host)  # nobody can own a one-word name
        return host if strange and "*" not in self._allowed else ""

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._allowed or origin in self._allowed:
            return True
        return origin.partition("://")[2] == host and not (self._local and self._is_strange(host))

    def _is_strange(self, host: str) -> bool:
        """Whether a Host header's value is a name that may be somebody else's."""
        try:
            name = (urlsplit(f"//{host}").hostname or "localhost").rstrip(".")
        except ValueError:
            return True
        return name not in self._names and not (f".{name}".endswith(OWN) or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OneSlash:
    """``/v1/models/`` is ``/v1/models``: an answer, not a redirect, which behind TLS would name the wrong scheme."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


class AzurePaths:
    """``/openai/v1/…``, and ``/openai/deployments/NAME/…``, whose NAME is the model, whatever the body says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (found := _AZURE.fullmatch(scope["path"])):
            scope = {**scope, "path": f"/v1/{found['rest']}", http.DEPLOYMENT: found["name"]}
        await self._app(scope, receive, send)


_AZURE = re.compile(
    r"/openai/(?:v1/|deployments/(?P<name>.+?)/(?=(?:chat/completions|[^/]+)$))?(?P<rest>(?!deployments/|v1/).+)"
)


def routes(gateway: Gateway) -> list[BaseRoute]:
    operations, tokenize, responses = Operations(gateway), Tokenize(gateway), StoredResponses(gateway)

    def get(path: str, handler: Handler, *, public: bool = False, optional: bool = False) -> Route:
        return Route(path, Guarded(gateway, handler, public=public, optional=optional), methods=["GET"])

    def post(path: str, handler: Handler, error_body: ErrorBody = ApiError.body) -> Route:
        return Route(path, Guarded(gateway, handler, error_body=error_body), methods=["POST"])

    async def schema(_: Request) -> Response:
        return JSONResponse(openapi.document())

    generating: list[BaseRoute] = [
        Route(path, app, methods=["POST"]) for path, app in endpoints.endpoints(gateway).items()
    ]
    return [
        *generating,
        get("/v1/models", operations.models, optional=bool(gateway.settings.open_models)),
        get("/v1/models/{name:path}", operations.model),
        get("/v1/responses/{name}", responses.get),
        Route("/v1/responses/{name}", Guarded(gateway, responses.delete), methods=["DELETE"]),
        post("/tokenize", tokenize.tokenize),
        post("/v1/messages/count_tokens", tokenize.count, error_body=messages.error_body),
        post("/v1/responses/input_tokens", tokenize.count_input),
        post("/detokenize", tokenize.detokenize),
        get("/tokenizer_info", tokenize.info),
        get("/load", operations.load),
        get("/v1/loads", operations.loads),
        get("/version", operations.version, public=True),
        get("/ping", operations.live, public=True),
        get("/health", operations.ready, public=True),
        get("/health/live", operations.live, public=True),
        get("/health/ready", operations.ready, public=True),
        get("/health/generate", operations.generate),
        get("/health_generate", operations.generate),
        get("/metrics", operations.metrics),
        get("/openapi.json", schema, public=True),
        *page.routes(),
    ]


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405."""
    assert isinstance(error, HTTPException)
    path, missing = request.url.path[:200], error.status_code == 404
    headers = dict(error.headers or {})
    if "Allow" in headers:  # Starlette's order differs from one process to the next
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    if missing:
        near = difflib.get_close_matches(path, openapi.document()["paths"], 1, 0.8)
        hint = f"did you mean {near[0]}?" if near else "GET /openapi.json lists what is"
        message = f"{path} is not served: this server generates text only; {hint}"
    else:
        message = f"{path} is not for {request.method}; send {headers.get('Allow', 'another method')}"
    body = messages.error_body if path.startswith("/v1/messages") else ApiError.body
    answer = response_of(ApiError(error.status_code, message, code="not_found" if missing else None), body)
    answer.headers.update(headers)
    return answer


def create(settings: GatewaySettings) -> tuple[Starlette, Gateway]:
    """The ASGI app and the gateway in it. Raises ``GatewaySettingsError``."""
    gateway = Gateway(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        yield
        await gateway.close()

    local = settings.host in LOOPBACK and not (settings.api_keys or settings.api_keys_file)
    middleware = [
        Middleware(OneSlash),
        Middleware(AzurePaths),
        Middleware(SameOrigin, allowed=settings.origins, local=local),
    ]
    if settings.origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],  # OpenAI's SDK sends a dozen of its own; the origin is what is checked
                expose_headers=["x-request-id", "retry-after"],
            )
        )  # fmt: skip
    app = Starlette(
        routes=routes(gateway),
        lifespan=lifespan,
        middleware=middleware,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    return app, gateway
