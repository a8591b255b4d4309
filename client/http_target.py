"""A server that speaks OpenAI's API: how to write requests to it, and what its refusals and its silence mean."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httpx
import orjson

from client import _openai, errors, refusals
from client.channels import CLOSED
from client.patience import KnownServer
from client.request import Ask
from client.sequences import Order
from client.types import Bounds


class HttpTarget:
    """Where the gateway is and which model and key to name."""

    def __init__(self, url: str, *, model: str, api_key: str | None) -> None:
        self.url, self.model, self.server = url, model, KnownServer()
        self.headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {api_key}"} if api_key else {}
        )

    def request(
        self, http: httpx.Client | httpx.AsyncClient, ask: Ask, request_id: str, bounds: Bounds
    ) -> httpx.Request:
        """Raises ``Cancelled`` once the client is closed."""
        if http.is_closed:
            raise errors.Cancelled(CLOSED)
        body = _openai.body(ask.prompt, ask.options, model=self.model, stream=ask.stream)
        limits = ask.timeouts
        both = (limits.first_token if ask.stream else None, bounds.left())
        first = min((s for s in both if s is not None), default=None)
        return http.build_request(
            "POST",
            self.url + _openai.path_of(ask.prompt),
            content=orjson.dumps(body),
            headers=self.headers | {"x-request-id": request_id} | dict(ask.metadata),
            timeout=httpx.Timeout(first, connect=limits.connect),
        )

    def failure(self, error: httpx.HTTPError, ask: Ask, order: Order) -> errors.ClientError:
        limits = ask.timeouts
        if isinstance(error, httpx.ConnectTimeout):
            return errors.RequestTimeout("connect", limits.connect or 0.0)
        if isinstance(error, httpx.TimeoutException):
            phase, bound = (
                ("between chunks", limits.between_chunks) if order.started else ("first token", limits.first_token)
            )
            if not ask.stream:
                phase, bound = "total", limits.total
            return errors.RequestTimeout(phase, bound or 0.0)
        why = str(error) or type(error).__name__
        if order.started:
            return refusals.lost(self.url, why, order.tokens)
        return refusals.unreachable(self.url, why, known=self.server.answered)


def refused(response: httpx.Response, data: bytes) -> errors.ClientError:
    try:
        parsed: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        parsed = data.decode(errors="replace")
    says_what = isinstance(parsed, dict) and (isinstance(parsed.get("error"), dict) or "message" in parsed)
    if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED) and not says_what:
        return refusals.no_openai(response.url, response.status_code)
    return _openai.error_of(response.status_code, parsed, response.headers.get("retry-after"))
