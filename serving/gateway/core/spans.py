"""The span of one HTTP request, with a child for its time in the gateway's queue; the engine's spans are children too.

Attributes: https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/; never a text.
"""

from __future__ import annotations

import time

from serving.gateway.core.answer import Answer
from serving.gateway.core.answer_context import AnswerTimes
from serving.tracing import HEADER, Span, Tracer

COMPLETIONS = "/v1/completions"


class RequestSpan:
    """Without a tracer it does nothing."""

    def __init__(self, tracer: Tracer | None, path: str, trace: dict[str, str], at: float) -> None:
        """``trace``: the caller's W3C headers; ``at``: monotonic seconds."""
        self._tracer, self._path, self._trace = tracer, path, trace
        self._span: Span | None = None
        if tracer:
            self._span = tracer.begin(f"POST {path}", trace.get(HEADER, ""), at, server=True)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The trace context of what is done for this request."""
        own = {HEADER: self._span.traceparent} if self._span else {}
        return list((self._trace | own).items())

    def end(self, status: int, model: str, problem: str, answer: Answer | None, timing: AnswerTimes) -> None:
        if not self._tracer or not self._span:
            return
        attributes: dict[str, str | int | float | bool | tuple[str, ...]] = {
            "http.request.method": "POST", "http.route": self._path, "url.path": self._path,
            "http.response.status_code": status, "gen_ai.request.model": model,
            "gen_ai.operation.name": "text_completion" if self._path == COMPLETIONS else "chat",
        }  # fmt: skip
        if timing.sent:
            self._tracer.record("queue", self._span.traceparent, timing.read, timing.sent)
        if timing.first:
            attributes["gen_ai.response.time_to_first_chunk"] = timing.first - timing.read
        if answer:
            attributes |= {
                "gen_ai.response.id": answer.id,
                "gen_ai.response.finish_reasons": tuple(choice.finish or "" for choice in answer.choices),
                "gen_ai.request.stream": answer.plan.stream,
                "gen_ai.usage.input_tokens": answer.prompt_tokens,
                "gen_ai.usage.output_tokens": answer.output_tokens,
            }
        if problem:
            attributes["error.type"] = problem
        # A refused request is the caller's fault: by the conventions no error of a server.
        failed = problem if status >= 500 or status == 200 else ""
        self._span.end(time.monotonic(), attributes, failed)
