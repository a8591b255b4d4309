"""Spans of the engine step: one for each sequence, with its time in the queue, in prefill and in decoding below it.

Attributes: https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/; never a text.
"""

from __future__ import annotations

import time

from serving.streaming.sequence import ActiveSequence
from serving.tracing import Attributes, Tracer


class EngineSpans:
    def __init__(self, tracer: Tracer, model: str) -> None:
        self._tracer, self._model = tracer, model

    def ended(self, sequence: ActiveSequence, reason: str) -> None:
        """The dispatcher's ``on_end``."""
        end, trace = time.monotonic(), sequence.request.job.trace
        if not trace:
            return
        problem = (sequence.request.problem or reason) if reason == "error" else ""
        attributes = self._attributes(sequence, reason)
        own = self._tracer.record("engine", trace, sequence.admitted, end, attributes, problem)
        if first := sequence.first_token:
            begun = sequence.scheduled or sequence.admitted  # TensorRT-LLM does not say: its queue counts as prefill
            if sequence.scheduled:
                self._tracer.record("queue", own, sequence.admitted, begun)
            self._tracer.record("prefill", own, begun, first)
            self._tracer.record("decode", own, first, end)

    def _attributes(self, sequence: ActiveSequence, reason: str) -> Attributes:
        job = sequence.request.job
        first = sequence.first_token
        return {
            "gen_ai.request.model": self._model,
            "gen_ai.request.max_tokens": job.sampling.max_tokens,
            "gen_ai.request.temperature": job.sampling.temperature,
            "gen_ai.request.top_p": job.sampling.top_p,
            "gen_ai.request.stream": job.stream,
            "gen_ai.response.id": sequence.request.request_id.removeprefix("\0"),
            "gen_ai.response.finish_reasons": (reason,),
            "gen_ai.usage.input_tokens": sequence.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": sequence.cached_tokens,
            "gen_ai.usage.output_tokens": sequence.completion_tokens,
            **({"gen_ai.response.time_to_first_chunk": first - sequence.admitted} if first else {}),
        }
