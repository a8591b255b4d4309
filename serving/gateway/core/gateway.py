"""The state of one worker process: its channel to Triton, its open answers, admission, timeouts and health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from client import errors as library
from client.channels import Channels
from client.grpc_aio import AioChannel, AsyncGrpcStream
from client.request import Ask
from client.sequences import request_ids
from client.types import NO_RETRY, Options, Timeouts
from contract import engine_dir
from contract.errors import EngineDirectoryError
from contract.heartbeat import Pulse, launcher_path
from serving import tracing
from serving.gateway.core import auth, tritons
from serving.gateway.core.answer import Answer
from serving.gateway.core.answer_context import AnswerContext
from serving.gateway.core.bodies import BODIES, BodyMemory
from serving.gateway.core.fingerprint import fingerprint
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
from serving.outage import Outage

log = logging.getLogger("serving.gateway")
TICK = 0.25  # seconds between checks of the open answers
READY_SECONDS = 2.0  # limit on one readiness call to Triton
UNWATCHED_SECONDS = 4.0  # launcher silent for this long: not ready, because nothing would restart a dead engine
ABANDONED_SECONDS = 30.0  # launcher silent for this long: not alive, so that an orchestrator restarts everything
MODEL = "qwen"
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
        launched = settings.readiness_file
        self._launcher = Pulse(launcher_path(Path(launched).parent)) if launched else None
        self.leaving = self.draining = self._in_a_hurry = False  # not ready any more; refusing, too; ending answers
        self.answers: set[Answer] = set()
        self.open = 0
        self.bodies = BodyMemory(BODIES * settings.max_body_bytes)
        self.slots = TenantSlots(max(1, settings.max_open // settings.processes))
        self._share = max(1, settings.max_open // settings.processes)
        self._tasks: list[asyncio.Task[None]] = []
        self._canary: asyncio.Task[float] | None = None

    async def start(self) -> None:
        channels = [AioChannel(to, credentials=known, model=MODEL) for to, known in tritons.load(self.settings)]
        self.channels = Channels(channels, home=True)
        self.channel = self.channels.all[0]
        self.answer_context = AnswerContext(
            self.channels, self.metrics, self.tokens.text, self.settings.request_seconds, self.settings.stall_seconds,
            self.is_back, self.scheduler,
        )  # fmt: skip
        self._model_ready = self.channel.raw.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=pb.ModelReadyRequest.SerializeToString,
            response_deserializer=pb.ModelReadyResponse.FromString,
        )
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

    # admission
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

    # supervision of open answers
    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if self._launcher:
                self._launcher.look(TICK)
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
        bound = settings.first_token_seconds if answer.waiting_for_first else settings.stall_seconds
        if answer.waits_its_turn:
            bound = settings.first_token_seconds
            if now - answer.timing.chunk > bound:
                problem = f"queue: the engine had no place for this request within {bound:g} s; try again later"
                answer.stop(ApiError(429, problem, code="queue_full", retry_after=self.retry_after()))
        elif not answer.plan.in_pieces:
            return  # nothing arrives before the end; ``request_seconds`` limits it
        elif now - answer.timing.chunk > bound:
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
        self.leaving = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(at_once.wait(), self.settings.lame_duck_seconds)

    def hurry(self) -> None:
        """Give open answers no more time."""
        self._in_a_hurry = True

    async def drain(self) -> None:
        """Refuse new requests; let open answers finish for ``drain_seconds``, then end them with an error."""
        self.leaving = self.draining = True
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

    # health
    def outage(self) -> Outage:
        """Why Triton does not answer and until when, as the launcher tells all workers in one file."""
        if not self.settings.readiness_file:
            return Outage()
        try:
            return Outage.load(Path(self.settings.readiness_file).read_text())
        except (OSError, ValueError):
            return Outage("the launcher is gone")

    def unwatched(self, seconds: float) -> str:
        """The problem when the launcher has been silent for ``seconds``; "" otherwise. Requests are still answered."""
        launcher = self._launcher
        if launcher is None or not launcher.has_begun or launcher.silent < seconds:
            return ""
        return f"the launcher has not run for {launcher.silent:.0f} s: nobody would start a dead engine again"

    async def ready(self) -> str:
        """``""`` when requests can be answered, else why not."""
        if self.leaving:
            return "draining"
        launched = self.settings.readiness_file
        if problem := self.outage().why or self.unwatched(UNWATCHED_SECONDS):
            return problem
        try:  # what the launcher calls ready is: this worker's channel may just have to connect again
            answer = await self._model_ready(
                pb.ModelReadyRequest(name=MODEL), timeout=READY_SECONDS, wait_for_ready=bool(launched),
                metadata=self.channel.metadata,
            )  # fmt: skip
        except grpc.RpcError as error:
            return f"Triton at {self.settings.triton_grpc} does not answer ({error.code().name.lower()})"
        return "" if answer.ready else f"Triton has not loaded model {MODEL}"

    async def is_back(self) -> bool | None:
        """Whether requests can be answered again; ``None``: not by a Triton that this gateway's launcher starts."""
        return None if self.leaving or not self._launcher else not await self.ready()

    async def canary(self) -> float:
        """Seconds a real one-token answer takes; concurrent callers share one. Raises ``ClientError``."""
        if self._canary is None or self._canary.done():
            self._canary = asyncio.ensure_future(self._generate_one())
        return await asyncio.shield(self._canary)

    async def _generate_one(self) -> float:
        begin = time.monotonic()
        options, timeouts = Options(max_tokens=1, temperature=0.0), Timeouts(first_token=10.0, total=15.0)
        ask = Ask("Hello", options, stream=False, timeouts=timeouts, retry=NO_RETRY)
        async with AsyncGrpcStream(Channels([self.channel]), request_ids(), ask) as stream:
            async for chunk in stream:
                if chunk.finish_reason in ("stop", "length"):
                    return time.monotonic() - begin
        raise library.StreamCut("engine: the canary's answer did not end")


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
