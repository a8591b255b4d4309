"""The endpoints that do not generate: models, health, metrics."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from client.errors import ClientError
from serving.gateway.core.errors import from_library
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.metrics import CONTENT_TYPE_LATEST

STARTED = int(time.time())


class Operations:
    """Handlers that share a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._gateway.names]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._model(self._gateway.model_name(request.path_params["name"])))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name, "object": "model", "created": STARTED, "owned_by": "qwen-triton",
            "root": self._gateway.names[0], "parent": None, "max_model_len": self._gateway.context,
            "synthetic": self._gateway.synthetic,  # random weights: the chat page says so
        }  # fmt: skip

    async def live(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """200 while requests can be answered; 503 with the reason while starting, draining or without Triton."""
        problem = await self._gateway.ready()
        return JSONResponse({"status": problem or "ready"}, 503 if problem else 200)

    async def generate(self, _: Request) -> Response:
        """A real one-token answer through the whole pipeline."""
        try:
            seconds = await self._gateway.canary()
        except ClientError as error:
            raise from_library(error, {}, self._gateway.triton_metrics.retry_after()) from None
        return JSONResponse({"status": "generates", "seconds": round(seconds, 4)})

    async def metrics(self, _: Request) -> Response:
        own, engine = self._gateway.metrics.text(), await self._gateway.triton_metrics.text()
        return Response(own + engine, media_type=CONTENT_TYPE_LATEST)
