"""The endpoints that generate. Plain ASGI: from the body to the answer without a framework in between."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Receive, Scope, Send

from client.errors import ClientError
from serving.gateway.api import http, stored
from serving.gateway.core import translate
from serving.gateway.core.answer import Answer
from serving.gateway.core.answer_context import AnswerTimes
from serving.gateway.core.auth import Key
from serving.gateway.core.bodies import SMALL, HeldBody
from serving.gateway.core.errors import from_library
from serving.gateway.core.gateway import Gateway
from serving.gateway.core.off_loop import off_loop
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.core.render.base import AnswerHeader, BodyRenderer, StreamRenderer
from serving.gateway.core.render.chat import ChatBody, ChatStream
from serving.gateway.core.render.messages import MessagesBody, MessagesStream, error_body
from serving.gateway.core.render.responses import ResponsesBody, ResponsesStream
from serving.gateway.core.share.tenants import tenant_of
from serving.gateway.core.spans import RequestSpan
from serving.gateway.core.writer import Gone, Writer
from serving.gateway.schema import messages_protocol
from serving.gateway.schema.errors import ApiError, renaming
from serving.gateway.schema.numerals import as_sent
from serving.gateway.schema.protocol import ChatRequest, CompletionRequest
from serving.gateway.schema.responses_protocol import RENAMED, ResponsesRequest, as_chat

log = logging.getLogger("serving.gateway.access")
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_TRACE = (  # W3C trace context, which requires malformed values to be ignored
    ("traceparent", re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[ -~]{0,64}")),
    ("tracestate", re.compile(r"[ -~]{1,512}")),
)
UNBOUNDED_ANSWER = 512  # tokens reserved for an answer without max_tokens
CLIENT_GONE = 499  # nginx's number, for the log and the metrics only
Planned = tuple[GenerationPlan, str | None]  # and the model that was asked for
Planner = Callable[[Gateway, bytes, str], Awaitable[Planned]]  # the last: whose request it is


async def plan_chat(gateway: Gateway, body: bytes, _: str) -> Planned:
    request = await http.request_of(ChatRequest, body)
    gateway.check_template(request.chat_template_kwargs)
    if request.logprobs or request.prompt_logprobs is not None:
        await gateway.tokens.load()
    return await off_loop(len(body), lambda: translate.chat(request)), request.model


async def plan_response(gateway: Gateway, body: bytes, owner: str) -> Planned:
    request = await stored.resolved(gateway.responses, owner, await http.request_of(ResponsesRequest, body))
    gateway.check_template(request.chat_template_kwargs)
    with renaming(RENAMED):
        asked = as_chat(request)
        plan = await off_loop(len(body), lambda: translate.chat(asked))
    if asked.logprobs:
        await gateway.tokens.load()
    own = RENAMED | {tensor: RENAMED.get(name, name) for tensor, name in plan.renamed.items()}
    keep = stored.keeper(gateway.responses, owner, request)
    return replace(plan, request=request, keep=keep, renamed=own | {"max_tokens": "max_output_tokens"}), request.model


async def plan_message(gateway: Gateway, body: bytes, _: str) -> Planned:
    request = await http.request_of(messages_protocol.MessagesRequest, body)
    gateway.check_template(request.chat_template_kwargs)
    with renaming(messages_protocol.RENAMED):
        plan = await off_loop(len(body), lambda: translate.chat(messages_protocol.as_chat(request)))
    own = {tensor: messages_protocol.RENAMED.get(name, name) for tensor, name in plan.renamed.items()}
    return replace(plan, renamed=own), request.model


async def plan_completion(gateway: Gateway, body: bytes, _: str) -> Planned:
    request = await http.request_of(CompletionRequest, body)
    gateway.check_template(request.chat_template_kwargs)
    if request.logprobs is not None or request.prompt_logprobs is not None:
        await gateway.tokens.load()
    return await off_loop(len(body), lambda: translate.completion(request, gateway.settings.max_prompts)), request.model


async def plan_invocation(gateway: Gateway, body: bytes, owner: str) -> Planned:
    asked = await off_loop(len(body), lambda: http.read_json(body))
    plan = plan_completion if isinstance(asked, dict) and "messages" not in asked else plan_chat
    return await plan(gateway, body, owner)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one endpoint reads its requests and writes its answers; the rest is the same for all."""

    id_prefix: str
    planner: Planner
    stream: type[StreamRenderer]
    body: type[BodyRenderer]
    error_body: Callable[[ApiError], bytes] = ApiError.body

    def renderer(self, plan: GenerationPlan, header: AnswerHeader) -> StreamRenderer | BodyRenderer:
        return (self.stream if plan.stream else self.body)(plan, header)


ENDPOINTS = {
    "/v1/chat/completions": Endpoint("chatcmpl-", plan_chat, ChatStream, ChatBody),
    "/v1/completions": Endpoint("cmpl-", plan_completion, ChatStream, ChatBody),
    "/invocations": Endpoint("inv-", plan_invocation, ChatStream, ChatBody),
    "/v1/responses": Endpoint("resp_", plan_response, ResponsesStream, ResponsesBody),
    "/v1/messages": Endpoint("msg_", plan_message, MessagesStream, MessagesBody, error_body),
}


class Generate:
    """An ASGI app for one path."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint) -> None:
        self._gateway, self._endpoint = gateway, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = http.header(scope, b"x-request-id")
        answer_id = f"{self._endpoint.id_prefix}{uuid.uuid4().hex}"
        writer = Writer(send, given if _ID.fullmatch(given) else answer_id)
        timing = AnswerTimes(time.monotonic())
        exchange = _Exchange(self._gateway, self._endpoint, scope, receive, writer, timing)
        await exchange.run(answer_id)
        exchange.log()


def _expected_tokens(plan: GenerationPlan, body_bytes: int) -> int:
    """What a request reserves of its key's budget until its true count is known."""
    return body_bytes // 4 + plan.choices * (plan.options.max_tokens or UNBOUNDED_ANSWER)


class _Exchange:
    """One request and its answer, from authentication to the log line."""

    def __init__(
        self, gateway: Gateway, endpoint: Endpoint, scope: Scope, receive: Receive, writer: Writer, timing: AnswerTimes
    ) -> None:
        self._gateway, self._endpoint, self._scope, self._receive = gateway, endpoint, scope, receive
        self._writer, self._timing = writer, timing
        trace = {n: v for n, form in _TRACE if form.fullmatch(v := http.header(scope, n.encode()))}
        self._span = RequestSpan(gateway.tracer, scope["path"], trace, timing.arrived)
        self._key: Key | None = None
        self._answer: Answer | None = None
        self._problem = ""
        self._small_body = b""
        self._model = ""
        self._has_slot = False
        self._tenant: int | None = None
        self._reserved = 0

    async def run(self, answer_id: str) -> None:
        gateway = self._gateway
        try:
            with gateway.bodies.begin() as held:
                await self._respond(answer_id, held)
        except Gone:
            self._left()
        except ApiError as error:
            await self._refuse(error)
        except ClientError as error:
            renamed = self._answer.plan.names(self._answer.failed or 0) if self._answer else {}
            await self._refuse(from_library(error, renamed, gateway.retry_after(), gateway.health.outage()))
        except Exception:  # outermost boundary: the caller gets an answer, the log gets the traceback
            log.exception("unexpected error", extra={"request_id": answer_id})
            await self._refuse(ApiError(500, "internal error; see the server's log", code="internal_error"))
        finally:
            if self._has_slot:
                gateway.open -= 1
                gateway.metrics.open.dec()
            if self._tenant is not None:
                gateway.slots.give_back(self._tenant)

    async def _respond(self, answer_id: str, held: HeldBody) -> None:
        gateway, scope = self._gateway, self._scope
        self._key = gateway.keys.authenticate(http.credentials(scope))
        gateway.keys.admit(self._key)
        body = await http.read_body(scope, self._receive, gateway.settings.max_body_bytes, held)
        self._small_body = body if len(body) <= SMALL else b""
        self._take_slot()  # only now: a client that sends half a body must not hold one
        self._timing.read = time.monotonic()
        plan, asked = await self._endpoint.planner(gateway, body, self._key.name if self._key else "")
        self._model = gateway.model_name(scope.get(http.DEPLOYMENT) or asked)
        del body  # the plan has what is needed
        if self._model in gateway.adapters:
            plan = replace(plan, options=replace(plan.options, lora_name=self._model))
        if self._key and gateway.triton_metrics.honours_cache_salt:
            plan = replace(plan, options=replace(plan.options, cache_salt=self._key.salt(plan.options.cache_salt)))
        shown_id = f"{self._endpoint.id_prefix}{plan.request_id}" if plan.request_id else answer_id
        if self._writer.request_id == answer_id:  # the header, where there is one, names the exchange
            self._writer.request_id = shown_id
        header = AnswerHeader(shown_id, self._model, int(time.time()), gateway.fingerprint)
        renderer = self._endpoint.renderer(plan, header)
        tenant = tenant_of(self._key, plan.user, http.address(scope))
        gateway.slots.take(tenant, gateway.retry_after)
        self._tenant = tenant
        answer = Answer(
            gateway.answer_context, plan, answer_id, renderer, self._writer, self._timing, self._span.metadata, tenant
        )
        gateway.check_ttft(answer.work(0))
        self._answer, self._reserved = answer, _expected_tokens(plan, held.size)
        gateway.keys.admit(self._key, self._reserved)
        await self._run_watched(answer)

    def _take_slot(self) -> None:
        gateway = self._gateway
        gateway.open += 1
        gateway.metrics.open.inc()
        self._has_slot = True
        gateway.admit()

    async def _run_watched(self, answer: Answer) -> None:
        watcher = asyncio.ensure_future(http.until_gone(self._receive))
        watcher.add_done_callback(lambda task: None if task.cancelled() else answer.stop(Gone()))
        self._gateway.answers.add(answer)
        try:
            await answer.run()
        finally:
            self._gateway.answers.discard(answer)
            watcher.cancel()
            self._count(answer)

    def _count(self, answer: Answer) -> None:
        metrics = self._gateway.metrics
        if answer.prompt_tokens:
            metrics.generated(answer.prompt_tokens, [choice.tokens for choice in answer.choices])
        for choice in answer.choices:
            if choice.finish:
                metrics.finished(choice.finish)
        if all(choice.finish for choice in answer.choices):
            timing, tokens = self._timing, answer.output_tokens if len(answer.choices) == 1 else 0
            metrics.e2e.observe(
                time.monotonic() - timing.arrived
            )  # of whole answers: refusals are quick, and would hide the rest
            metrics.asked(answer.plan.options.n, answer.plan.options.max_tokens)
            metrics.took(timing.sent, timing.first, timing.chunk, tokens, in_pieces=answer.plan.in_pieces)
        self._gateway.keys.charge(self._key, answer.used_tokens(self._reserved) - self._reserved)

    def _left(self) -> None:
        self._problem = "client gone"
        self._writer.status = CLIENT_GONE
        self._gateway.metrics.gone.inc()

    async def _refuse(self, error: ApiError) -> None:
        self._problem = error.code or f"{error.status}"
        if error.param:
            error.message = as_sent(error.message, error.param, self._small_body)
        writer = self._writer
        if not writer.started:
            await writer.error(error, self._endpoint.error_body(error), self._receive)
        elif self._answer and isinstance(self._answer.renderer, StreamRenderer):
            await writer.event(self._answer.renderer.error(error))
            await writer.end()

    def log(self) -> None:
        """One line per request; never a prompt."""
        status, answer, timing = self._writer.status, self._answer, self._timing
        self._gateway.metrics.answered(self._scope["path"], status)
        fields: dict[str, Any] = {
            "request_id": self._writer.request_id, "path": self._scope["path"], "status": status, "model": self._model,
            "ms": round((time.monotonic() - timing.arrived) * 1000, 1),
        }  # fmt: skip
        if answer:
            fields |= {
                "id": answer.id, "prompt_tokens": answer.prompt_tokens, "output_tokens": answer.output_tokens,
                "finish": ",".join(c.finish or "-" for c in answer.choices[:4]), "user": answer.plan.user[:64],
            }  # fmt: skip
        if timing.first:
            fields["ttft_ms"] = round((timing.first - timing.read) * 1000, 1)
        if self._key:
            fields["key"] = self._key.name
        self._span.end(status, self._model, self._problem, answer, timing)
        log.info("request", extra={k: v for k, v in (fields | {"problem": self._problem}).items() if v != ""})


def endpoints(gateway: Gateway) -> dict[str, Generate]:
    return {path: Generate(gateway, endpoint) for path, endpoint in ENDPOINTS.items()}
