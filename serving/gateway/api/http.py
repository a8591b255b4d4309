"""Reading a request over plain ASGI: headers, a bounded body, JSON, and the moment the client leaves."""

from __future__ import annotations

import asyncio
import codecs
import time
from typing import Any

import orjson
from starlette.types import Receive, Scope

from serving.gateway.core.bodies import HeldBody
from serving.gateway.core.off_loop import off_loop
from serving.gateway.core.writer import Gone
from serving.gateway.schema import misfits, size
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.parse import Request, parse

BODY_SECONDS = 10.0  # for a body to arrive, and one more second for each ``SLOWEST`` bytes of it
SLOWEST = 16 * 1024
LOOK_SECONDS = 1.0  # between checks whether others need the memory of an incomplete body

DEPLOYMENT = "deployment"  # in the scope: the model that Azure's paths name


def header(scope: Scope, name: bytes) -> str:
    """A request header's value, or ``""``. ``name`` in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def address(scope: Scope) -> str:
    """The client's IP address, or ``""``."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def credentials(scope: Scope) -> str:
    """``Authorization``, or what Anthropic's and Azure's clients send in its place."""
    key = header(scope, b"x-api-key") or header(scope, b"api-key")
    return header(scope, b"authorization") or (key and f"Bearer {key}")


async def read_body(scope: Scope, receive: Receive, most: int, held: HeldBody) -> bytes:
    """The whole body. Raises ``ApiError`` 413 as soon as it is known to be too large, ``Gone`` if it is incomplete."""
    encoding = header(scope, b"content-encoding")
    if encoding not in ("", "identity"):
        problem = f"content-encoding: {encoding[:40]} is not supported; send the body as it is"
        raise ApiError(415, problem, code="unsupported", close=True)
    announced = header(scope, b"content-length")
    if announced.isdigit() and int(announced) > most:
        raise too_large(most)
    parts, received, begun = [], 0, time.monotonic()
    while True:
        left = begun + BODY_SECONDS + received / SLOWEST - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), min(left, LOOK_SECONDS))
        except asyncio.TimeoutError:
            held.grow(0)
            if left > LOOK_SECONDS:
                continue
            problem = f"only {received} bytes of the body came in {time.monotonic() - begun:.0f} s; send it faster"
            raise ApiError(408, problem, code="timeout", close=True) from None
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        received += len(part)
        if received > most:
            raise too_large(most)
        held.grow(len(part))
        parts.append(part)
        if not message.get("more_body"):
            held.arrived()
            return b"".join(parts)


def too_large(most: int) -> ApiError:
    return ApiError(413, f"the body exceeds {most} bytes; send a smaller one", code="body_too_large", close=True)


async def request_of(kind: type[Request], body: bytes) -> Request:
    """The one way from bytes to a checked request: counted, parsed, validated; a large one in a thread.

    Raises ``ApiError`` 400 naming what is wrong."""
    return await off_loop(len(body), lambda: parse(kind, read_json(body)))


def read_json(body: bytes) -> Any:
    """Raises ``ApiError`` 400 saying where JSON or UTF-8 breaks, or that it holds too many values or too deep ones."""
    body = body.removeprefix(codecs.BOM_UTF8)  # Windows' editors put it in front of a file
    size.check(body)
    size.check_depth(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if wrong := misfits.misfit(body):
            raise wrong from None
        problem = "empty" if not body.strip() else f"not JSON in UTF-8 ({error})"
        raise ApiError(400, f"the body is {problem}; send a JSON object", code="invalid_json") from None


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection. Call it after the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        continue
