"""Spans of requests, sent over OTLP to ``OTEL_EXPORTER_OTLP_ENDPOINT``. Without that variable nothing here imports
OpenTelemetry, opens a socket or records a time.

The SDK's variables hold (sampler, headers, queue, resource): https://opentelemetry.io/docs/languages/sdk-configuration/.
A span is made when its times are known, or at least its end; what is left to do then is an append to a bounded queue,
from which a thread of the SDK sends. A collector that is gone costs spans and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SERVICE = "qwen-triton"
HEADER = "traceparent"  # W3C trace context; the only one that travels on to the engine
CLOSE_SECONDS = 1.0  # that the last spans get when a process ends

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the operator has named a collector and not switched tracing off."""
    on = any(environment.get(name, "").strip() for name in ENDPOINTS)
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return on and not disabled and environment.get("OTEL_TRACES_EXPORTER", "").strip() in ("", "otlp")


def obstacle(environment: Mapping[str, str] = os.environ) -> str:
    """Why the spans that are wanted cannot be sent, with the remedy; empty when they can."""
    if not wanted(environment):
        return ""
    for name in PROTOCOLS:
        if (protocol := environment.get(name, "").strip()) not in ("", "http/protobuf"):
            return f"{name}={protocol} is not spoken here: leave it out, and name the collector's HTTP port (4318)"
    endpoint = next(name for name in ENDPOINTS if environment.get(name, "").strip())
    if not environment[endpoint].strip().startswith(("http://", "https://")):
        return f"{endpoint}={environment[endpoint]} is not a URL: write http://HOST:4318"
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http"):
            return ""
    return f"{endpoint} is set and OpenTelemetry is not installed: run `make setup-otel`, or unset it"


def load(process: str) -> Tracer | None:
    """The tracer of this process, where spans are wanted. ``process``: the part of the server that it is."""
    return Tracer(process) if wanted() else None


class Tracer:
    """Makes spans. A trace is named by its ``traceparent``; an empty one begins a new trace. Times are monotonic
    seconds. Thread-safe."""

    def __init__(self, process: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for every lost batch; see _Exporter
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE}
        resource = Resource.create(named | {"service.instance.id": f"{os.uname().nodename}-{os.getpid()}"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter()))
        self._tracer = self._provider.get_tracer(f"{SERVICE}.{process}")

    def begin(self, name: str, parent: str, at: float, *, server: bool = False) -> Span:
        """``parent``: a ``traceparent``."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({HEADER: parent})
        kind = SpanKind.SERVER if server else SpanKind.INTERNAL
        return Span(self._tracer.start_span(name, context, kind, start_time=_epoch(at)))

    def record(
        self, name: str, parent: str, begin: float, end: float, attributes: Attributes | None = None, error: str = ""
    ) -> str:
        """A span that is over. Returns its ``traceparent``."""
        span = self.begin(name, parent, begin)
        span.end(end, attributes or {}, error)
        return span.traceparent

    def close(self) -> None:
        """Send what is left, for a second at most."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


class Span:
    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What names it to its children."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def end(self, at: float, attributes: Attributes, error: str = "") -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(attributes)
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_epoch(at))


class _Exporter:
    """OTLP over HTTP. One line in the log when the collector stops taking spans, and one when it takes them again."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._exporter, self._works = OTLPSpanExporter(), True

    def export(self, spans: Sequence[Any]) -> Any:
        result = self._exporter.export(spans)
        if (works := result.name == "SUCCESS") != self._works:
            self._works = works
            said = "takes spans again" if works else "does not take spans; they are lost until it does"
            log.warning("the collector at %s %s", os.environ.get(ENDPOINTS[0]) or os.environ.get(ENDPOINTS[1]), said)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))


def _epoch(at: float) -> int:
    """Nanoseconds since 1970 of a monotonic time."""
    return time.time_ns() - round((time.monotonic() - at) * 1e9)
