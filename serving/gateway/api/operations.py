"""The endpoints that do not generate: models, health, metrics."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from client.errors import ClientError
from serving.gateway.core.errors import from_library
from serving.gateway.core.fingerprint import VERSION
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.health import ABANDONED_SECONDS
from serving.gateway.core.metrics import CONTENT_TYPE_LATEST
from serving.gateway.core.triton_metrics import RUNNING, WAITING

STARTED = int(time.time())
KV_USED = "vllm:kv_cache_usage_perc"
BLOCKS_USED, BLOCKS, BLOCK_TOKENS = "qwen_kv_blocks_used", "qwen_kv_blocks_total", "qwen_kv_block_tokens"


class Operations:
    """Handlers that share a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, _: Request) -> Response:
        names = (*self._gateway.names, *self._gateway.adapters)
        ends = {"has_more": False, "first_id": names[0], "last_id": names[-1]}  # Anthropic's page
        return JSONResponse({"object": "list", "data": [self._model(name) for name in names], **ends})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._model(self._gateway.model_name(request.path_params["name"])))

    def _model(self, name: str) -> dict[str, Any]:
        """OpenAI's model, vLLM's and Anthropic's in one."""
        base = self._gateway.names[0]
        return {
            "type": "model", "display_name": name,
            "created_at": f"{datetime.fromtimestamp(STARTED, timezone.utc):%FT%TZ}",
            "id": name, "object": "model", "created": STARTED, "owned_by": "qwen-triton",
            "root": base, "parent": base if name in self._gateway.adapters else None,
            "max_model_len": self._gateway.context,
            "synthetic": self._gateway.synthetic,  # random weights: the chat page says so
        }  # fmt: skip

    async def live(self, _: Request) -> Response:
        """200 while this process lives; 503 only when an orchestrator has to restart everything."""
        problem = self._gateway.health.unwatched(ABANDONED_SECONDS)
        return JSONResponse({"status": problem or "alive"}, 503 if problem else 200)

    async def ready(self, _: Request) -> Response:
        """200 while requests can be answered; 503 with the reason while starting, draining or without Triton."""
        problem = await self._gateway.health.ready()
        if not problem:
            return JSONResponse({"status": "ready"})
        wait = {"retry-after": str(self._gateway.health.outage().retry_after())}
        return JSONResponse({"status": problem}, 503, wait)

    async def generate(self, _: Request) -> Response:
        """A real one-token answer through the whole pipeline."""
        try:
            seconds = await self._gateway.health.canary()
        except ClientError as error:
            raise from_library(error, {}, self._gateway.retry_after(), self._gateway.health.outage()) from None
        return JSONResponse({"status": "generates", "seconds": round(seconds, 4)})

    async def load(self, _: Request) -> Response:
        """vLLM's /load: the requests in progress, of all workers: which of them a probe meets is chance."""
        return JSONResponse({"server_load": await asyncio.to_thread(self._gateway.metrics.open_requests)})

    async def loads(self, _: Request) -> Response:
        """The part of SGLang's /v1/loads by which routers balance."""
        found = await self._gateway.triton_metrics.gauges(RUNNING, WAITING, KV_USED, BLOCKS_USED, BLOCKS, BLOCK_TOKENS)
        running, waiting = int(found[RUNNING]), int(found[WAITING]) + self._gateway.scheduler.waiting
        load = {
            "dp_rank": 0, "num_running_reqs": running, "num_waiting_reqs": waiting,
            "num_total_reqs": running + waiting, "token_usage": found[KV_USED],
            "num_used_tokens": int(found[BLOCKS_USED] * found[BLOCK_TOKENS]),
            "max_total_num_tokens": int(found[BLOCKS] * found[BLOCK_TOKENS]),
        }  # fmt: skip
        return JSONResponse({"timestamp": time.time(), "dp_rank_count": 1, "loads": [load]})

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def metrics(self, _: Request) -> Response:
        own, engine = self._gateway.metrics.text(), await self._gateway.triton_metrics.text()
        return Response(own + engine, media_type=CONTENT_TYPE_LATEST)
