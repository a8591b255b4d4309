"""Stored /v1/responses: resolving what a request refers to, and GET and DELETE of one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.gateway.api import http
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.response_store import ResponseStore
from serving.gateway.schema import responses_protocol as protocol
from serving.gateway.schema.errors import ApiError, bad_request
from serving.gateway.schema.responses_protocol import ResponsesRequest

log = logging.getLogger(__name__)


async def resolved(store: ResponseStore | None, owner: str, request: ResponsesRequest) -> ResponsesRequest:
    """The request with everything in it that it refers to. Raises ``ApiError``."""
    if store is None:
        protocol.refuse_storage(request)
        return request
    kept = request.model_copy(update={"store": request.store is not False})
    wanted = protocol.references(request)
    if not (request.previous_response_id or wanted):
        return kept
    earlier = await _earlier(store, owner, request.previous_response_id)
    items = {name: await asyncio.to_thread(store.item, owner, name) for name in wanted}
    found = {name: item for name, item in items.items() if item is not None}
    if missing := next((name for name in wanted if name not in found), None):
        raise bad_request("input", f"the item {missing[:80]!r} is not stored (any more); send it whole")
    return protocol.with_items(kept, earlier, found)


async def _earlier(store: ResponseStore, owner: str, response_id: str | None) -> list[dict[str, Any]]:
    if not response_id:
        return []
    items = await asyncio.to_thread(store.conversation, owner, response_id)
    if items is None:
        problem = f"{response_id[:80]!r} is not stored (any more); send the whole conversation as input"
        raise bad_request("previous_response_id", problem, "previous_response_not_found")
    return items


def keeper(
    store: ResponseStore | None, owner: str, request: ResponsesRequest
) -> Callable[[dict[str, Any]], None] | None:
    if store is None or not request.store:
        return None
    return partial(_keep, store, owner, request)


def _keep(store: ResponseStore, owner: str, request: ResponsesRequest, response: dict[str, Any]) -> None:
    try:
        store.save(owner, response, protocol.input_items(request))
    except OSError as error:  # the answer exists and is worth more than being able to refer to it
        log.warning("a response could not be stored: %s", error)


class StoredResponses:
    """Handlers that share a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def get(self, request: Request) -> Response:
        store, owner, name = self._asked(request)
        found = await asyncio.to_thread(store.response, owner, name)
        if found is None:
            raise _unknown(name)
        return JSONResponse(found)

    async def delete(self, request: Request) -> Response:
        store, owner, name = self._asked(request)
        if not await asyncio.to_thread(store.delete, owner, name):
            raise _unknown(name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    def _asked(self, request: Request) -> tuple[ResponseStore, str, str]:
        name = str(request.path_params["name"])
        if self._gateway.responses is None:
            problem = "response: nothing is stored here; GATEWAY_RESPONSES_STORE of the server makes it keep responses"
            raise ApiError(404, problem, code="not_found")
        key = self._gateway.keys.authenticate(http.credentials(request.scope))
        return self._gateway.responses, key.name if key else "", name


def _unknown(name: str) -> ApiError:
    return ApiError(
        404, f"response: {name[:80]!r} is not stored (any more); send the whole conversation as input", code="not_found"
    )
