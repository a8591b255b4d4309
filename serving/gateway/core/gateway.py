"""The state of one worker process: its channels to Triton, its open answers, admission, time limits and drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.channels import Channels
from client.grpc_aio import AioChannel
from contract import engine_dir
from contract.errors import EngineDirectoryError
from serving import tracing
from serving.gateway.core import auth, tritons
from serving.gateway.core.answer import Answer
from serving.gateway.core.answer_context import AnswerContext
from serving.gateway.core.bodies import BODIES, BodyMemory
from serving.gateway.core.fingerprint import fingerprint
from serving.gateway.core.health import MODEL, Health
from serving.gateway.core.metrics import GatewayMetrics
from serving.gateway.core.response_store import ResponseStore
from serving.gateway.core.share.scheduler import FairScheduler
from serving.gateway.core.share.table import ShareTable
from serving.gateway.core.share.tenants import TenantSlots
from serving.gateway.core.share.turn import Work
from serving.gateway.core.tokens import Tokens
from serving.gateway.core.triton_metrics import TritonMetrics
from serving.gateway.core.writer import Gone
from serving.gateway.schema.errors import ApiError, bad_request
from serving.gateway.settings import GatewaySettings

log = logging.getLogger("serving.gateway")
TICK = 0.25  # seconds between checks of the open answers
NO_MODEL = "dummy"  # what Hugging Face's InferenceClient sends when it was given nothing but a URL
SPARE_ROWS = 2  # for workers that start while those they replace still end


class Gateway:
    """One per process; needs a running event loop from ``start`` on."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.tokens = Tokens(settings.engine_path)
        self.names, self.context, self.synthetic = _names(settings)
        self.adapters = tuple(engine_dir.adapters(settings.engine_path)) if settings.engine_path else ()
        self.tracer = tracing.load("gateway")
        self.fingerprint = fingerprint(settings.engine_path)
        self.metrics = GatewayMetrics(self.names[0])
        self.triton_metrics = TritonMetrics(settings.triton_metrics, self.names[0])
        run_dir = Path(settings.run_dir) if settings.run_dir else None
        budgets = run_dir / "budgets" if run_dir else None
        self.responses: ResponseStore | None = None
        if run_dir and settings.responses_store:
            most, seconds = settings.responses_store, settings.responses_seconds
            self.responses = ResponseStore(run_dir / "responses", most, seconds)
        self.keys = auth.Keys(auth.load(settings), budgets)
        shares = ShareTable(run_dir / "shares" if run_dir else None, settings.processes + SPARE_ROWS)
        self.scheduler = FairScheduler(shares, self.triton_metrics.capacity)
        self.health = Health(settings)
        self.draining = self._in_a_hurry = False  # refusing new requests; ending the open ones
        self.answers: set[Answer] = set()
        self.open = 0
        self.bodies = BodyMemory(BODIES * settings.max_body_bytes)
        self._share = max(1, settings.max_open // settings.processes)
        self.slots = TenantSlots(self._share)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        channels = [AioChannel(to, credentials=known, model=MODEL) for to, known in tritons.load(self.settings)]
        self.channels = Channels(channels, home=True)
        self.health.connect(self.channels.all[0])
        self.answer_context = AnswerContext(
            self.channels, self.metrics, self.tokens.text, self.settings.request_seconds,
            self.settings.first_token_seconds, self.health.is_back, self.scheduler,
        )  # fmt: skip
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self.triton_metrics.run())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.triton_metrics.close()
        for channel in self.channels.all:
            await channel.close()
        if self.tracer:
            await asyncio.to_thread(self.tracer.close)

    # --- admission ---------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Raises ``ApiError`` when this process accepts no more requests."""
        if self.draining:
            raise ApiError(503, "the gateway is shutting down; try again", code="draining", retry_after=5)
        if self.open > self._share:
            raise ApiError(
                429, f"{self._share} requests are already in progress, the most this worker accepts; try again later",
                code="too_many_requests", retry_after=self.retry_after(),
            )  # fmt: skip

    def retry_after(self) -> int:
        """Seconds until what waits here and in the engine is served."""
        return self.triton_metrics.retry_after(self.scheduler.waiting, self.scheduler.places_per_second)

    def check_ttft(self, work: Work) -> None:
        """Raises ``ApiError`` 429 for a request that would wait longer for its first token than ``ttft_limit``."""
        limit = self.settings.ttft_limit
        if not limit:
            return
        predicted = self.scheduler.first_token_seconds(work)
        if predicted > limit:
            wait = max(1, math.ceil(predicted - limit))
            raise ApiError(
                429, f"queue: the first token would come in about {predicted:.1f} s, and the limit is {limit:g} s; "
                f"try again in {wait} s", code="ttft_limit", retry_after=wait,
            )  # fmt: skip

    def model_name(self, asked: str | None) -> str:
        """Raises ``ApiError`` 404 for a name that is not served."""
        served = *self.names, *self.adapters
        if asked in served:
            return asked
        if not asked or asked == NO_MODEL:  # "": no name, as vLLM reads it
            return self.names[0]
        raise ApiError(
            404, f"model: {asked[:100]!r} is not served here; use {' or '.join(served)}", param="model",
            code="model_not_found",
        )  # fmt: skip

    def check_template(self, arguments: Mapping[str, Any] | None) -> None:
        """Raises ``ApiError`` for what would change a prompt: clients send ``enable_thinking: false`` to any model."""
        template = str(self.tokens.info.get("chat_template", "")) if arguments and self.settings.engine_path else ""
        for name, value in (arguments or {}).items():
            if value or name in template:
                problem = f"{name[:80]!r} cannot be set here; use /v1/completions with your own template"
                raise bad_request("chat_template_kwargs", problem, "unsupported")

    # --- supervision of open answers ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self.health.look(TICK)
            self.metrics.waiting.set(self.scheduler.waiting_here)
            for answer in list(self.answers):
                self._look_at(answer, now)

    def _look_at(self, answer: Answer, now: float) -> None:
        settings, writer = self.settings, answer.writer
        if writer.writing_since is not None:
            if now - writer.writing_since > settings.write_seconds:
                log.warning("client stopped reading", extra={"request_id": answer.id})
                answer.stop(Gone())
            return
        starts = answer.waiting_for_first or answer.restart.is_awaited
        bound = settings.first_token_seconds if starts else settings.stall_seconds
        if answer.waits_its_turn:
            bound = settings.first_token_seconds
            if now - answer.timing.chunk > bound:
                problem = f"queue: the engine had no place for this request within {bound:g} s; try again later"
                answer.stop(ApiError(429, problem, code="queue_full", retry_after=self.retry_after()))
        elif not answer.plan.in_pieces:
            return  # nothing arrives before the end; ``request_seconds`` limits it
        elif now - max(answer.timing.chunk, answer.restart.over_at) > bound:
            what = "no token came" if answer.waiting_for_first else "the engine fell silent"
            answer.stop(ApiError(504, f"engine: {what} within {bound:g} s; the request was stopped", code="timeout"))
        if now - writer.sent_at > settings.keepalive_seconds and answer.plan.stream:
            writer.sent_at = now
            self._spawn(answer.keep_alive())

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def lame_duck(self, at_once: asyncio.Event) -> None:
        """Not ready, but taking requests for ``lame_duck_seconds``: a router that has not asked yet sends some."""
        self.health.leaving = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(at_once.wait(), self.settings.lame_duck_seconds)

    def hurry(self) -> None:
        """Give open answers no more time."""
        self._in_a_hurry = True

    async def drain(self) -> None:
        """Refuse new requests; let open answers finish for ``drain_seconds``, then end them with an error."""
        self.health.leaving = self.draining = True
        log.info("draining", extra={"open": self.open})
        until = time.monotonic() + self.settings.drain_seconds
        while self.open and time.monotonic() < until and not self._in_a_hurry:
            await asyncio.sleep(0.02)
        for answer in list(self.answers):
            problem = "the gateway is shutting down; the answer is incomplete"
            answer.stop(ApiError(503, problem, code="draining", retry_after=5))
        until = time.monotonic() + 2.0
        while self.open and time.monotonic() < until:
            await asyncio.sleep(0.02)


def _names(settings: GatewaySettings) -> tuple[tuple[str, ...], int | None, bool]:
    """Names the model answers to, the one shown first; the context length in tokens; whether its weights are random."""
    names, context, synthetic = list(settings.names), None, False
    if settings.engine_path:
        try:
            engine = engine_dir.read(settings.engine_path)
        except EngineDirectoryError as error:
            log.warning("%s", error)
        else:
            names += [engine.model.name, *([engine.model.source] if "/" in engine.model.source else [])]
            context, synthetic = engine.limits.max_seq_len, engine.model.synthetic
    names = [name for name in names if name and not name.startswith(("/", "."))]
    return tuple(dict.fromkeys([*names, MODEL])), context, synthetic
