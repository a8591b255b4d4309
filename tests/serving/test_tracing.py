"""Spans: when they are wanted, what they say, and that a collector which is gone costs a request nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from contract.paths import ROOT
from serving import tracing
from tests.collector import Collector

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        (HERE, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4318/v1/traces"}, True),
        (HERE | {"OTEL_SDK_DISABLED": "true"}, False),
        (HERE | {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_spans_are_wanted_where_a_collector_is_named(environment: dict[str, str], on: bool) -> None:
    assert tracing.wanted(environment) is on


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ""),
        (HERE, ""),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""),
        (HERE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not spoken here"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "=collector:4318 is not a URL: write http://HOST:4318"),
    ],
)
def test_what_cannot_work_is_named(environment: dict[str, str], said: str) -> None:
    problem = tracing.obstacle(environment)
    assert said in problem and bool(said) == bool(problem)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)  # as it does for a parent package that is not there

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert "run `make setup-otel`" in tracing.obstacle(HERE)


def test_nothing_is_imported_where_no_span_is_wanted() -> None:
    code = (
        "import sys; from serving import tracing; assert tracing.load('x') is None; "
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'requests'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={}, check=True)
    assert done.stdout == "[]\n"


def test_a_span_continues_the_callers_trace(collector: Collector) -> None:
    tracer, now = tracing.Tracer("part"), time.monotonic()
    outer = tracer.begin("outer", PARENT, now - 2, server=True)
    inner = tracer.record("inner", outer.traceparent, now - 1.5, now - 1, {"gen_ai.usage.input_tokens": 7})
    outer.end(now, {}, "engine: it died")
    first, second = collector.of_trace(TRACE, 2)
    assert (first.name, first.parent, first.kind, first.error) == ("outer", PARENT[36:52], 2, "engine: it died")
    assert (second.name, second.parent, second.error) == (
        "inner",
        first.id,
        "",
    ) and inner == f"00-{TRACE}-{second.id}-01"
    assert second.attributes == {"gen_ai.usage.input_tokens": 7}
    assert [s.end - s.begin for s in (first, second)] == pytest.approx([2, 0.5], abs=0.01)
    assert abs(first.end - time.time()) < 5 and first.service == tracing.SERVICE
    tracer.close()


@pytest.mark.parametrize("parent", ["", "rubbish", PARENT.replace("00-", "ff-", 1)])
def test_without_a_readable_parent_a_trace_begins(collector: Collector, parent: str) -> None:
    tracer = tracing.Tracer("part")
    own = tracer.record("alone", parent, 0.0, 1.0)
    (span,) = collector.of_trace(own.split("-")[1], 1)
    assert span.parent == "" and span.trace != TRACE
    tracer.close()


def test_what_the_caller_did_not_sample_stays_here(collector: Collector) -> None:
    tracer = tracing.Tracer("part")
    own = tracer.record("quiet", PARENT[:-2] + "00", 0.0, 1.0)
    tracer.close()
    assert own.startswith(f"00-{TRACE}-") and own.endswith("-00") and collector.spans == []


@pytest.mark.parametrize("end", ["mute", "gone"])
def test_a_lost_collector_costs_spans_only(collector: Collector, caplog: pytest.LogCaptureFixture, end: str) -> None:
    """More spans than the queue holds; neither they nor the end of the process wait for the collector."""
    collector.mute.set() if end == "mute" else collector.close()
    tracer, begin = tracing.Tracer("part"), time.monotonic()
    for _ in range(5000):
        tracer.record("lost", PARENT, begin, begin)
    assert time.monotonic() - begin < 8, "one export that is waited for takes ten seconds"
    before = time.monotonic()
    tracer.close()
    assert time.monotonic() - before < tracing.CLOSE_SECONDS + 3
    if end == "gone":
        lost = [record for record in caplog.records if "they are lost until it does" in record.message]
        assert len(lost) <= 1 and {record.name for record in caplog.records} <= {"serving.tracing"}
