"""A collector of spans: takes OTLP over HTTP, as an OpenTelemetry Collector does, and keeps what came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class SpanSeen:
    """Ids in hex, times in seconds since 1970."""

    name: str
    part: str  # of the server: the scope's name
    trace: str
    id: str
    parent: str
    kind: int
    begin: float
    end: float
    attributes: dict[str, Any]
    error: str
    service: str


class Collector(ThreadingHTTPServer):
    """``mute``: takes connections and never answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[SpanSeen] = []
        self.mute = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def of_trace(self, trace: str, count: int) -> list[SpanSeen]:
        """Its spans, at least ``count``, in the order of their beginnings."""
        return self.having(lambda span: span.trace == trace, count)

    def having(self, what: Callable[[SpanSeen], bool], count: int = 1, seconds: float = 20.0) -> list[SpanSeen]:
        deadline = time.monotonic() + seconds
        while len(found := list(filter(what, self.spans))) < count:
            assert time.monotonic() < deadline, [span.name for span in found]
            time.sleep(0.02)
        return sorted(found, key=lambda span: span.begin)

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.mute.is_set():
            time.sleep(60)
            return
        assert self.path == "/v1/traces"
        self.server.spans += _spans(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _spans(request: Any) -> list[SpanSeen]:
    return [
        SpanSeen(
            span.name, scope.scope.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.kind,
            span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9, _values(span.attributes),
            span.status.message if span.status.code == 2 else "", _values(resource.resource.attributes)["service.name"],
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
