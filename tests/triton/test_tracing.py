"""The trace of a request through the real server: from the gateway's HTTP span to the engine's, over one trace id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client import Client, Options
from client.errors import InvalidRequest
from tests.collector import Collector, SpanSeen
from tests.conftest import Server, start_server, stop_server
from tests.small_engine import END

pytestmark = pytest.mark.triton
CALLER = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def traced(collector: Collector, small_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        log = tmp_path_factory.mktemp("traced") / "serve.log"
        server = start_server(log, "--engine", str(small_engine), "--step-ms", "20", gateway=True)
    yield server
    if server.process.poll() is None:
        stop_server(server)


def parent(trace: str) -> str:
    return f"00-{trace}-{CALLER}-01"


def seconds(span: SpanSeen) -> float:
    return span.end - span.begin


def test_from_the_gateway_to_the_engine_step(traced: Server, collector: Collector) -> None:
    trace = "1" * 32
    body = {
        "model": "qwen",
        "messages": [{"role": "user", "content": "my dear secret"}],
        "max_tokens": 10,
        "stream": True,
    }
    web = httpx.post(f"{traced.gateway}/v1/chat/completions", json=body, headers={"traceparent": parent(trace)})
    assert web.status_code == 200
    spans = collector.of_trace(trace, 7)
    by = {(span.part.removeprefix("qwen-triton."), span.name): span for span in spans}
    request, engine = by["gateway", "POST /v1/chat/completions"], by["engine", "engine"]
    assert (request.parent, request.kind) == (CALLER, 2)
    below = {("gateway", "queue"), ("tokenizer", "tokenize"), ("engine", "engine")}
    assert {key for key, span in by.items() if span.parent == request.id} == below
    assert {key for key, span in by.items() if span.parent == engine.id} == {
        ("engine", name) for name in ("queue", "prefill", "decode")
    }
    for span in (request, engine):
        assert span.attributes["gen_ai.usage.output_tokens"] == 10 and span.attributes["gen_ai.usage.input_tokens"] > 10
        assert span.attributes["gen_ai.response.finish_reasons"] == ["length"] and span.error == ""
        assert 0.02 <= span.attributes["gen_ai.response.time_to_first_chunk"] < seconds(span)
        assert span.attributes["gen_ai.response.id"] == engine.attributes["gen_ai.response.id"]
    assert request.attributes["http.response.status_code"] == 200
    queue, prefill, decode = (by["engine", name] for name in ("queue", "prefill", "decode"))
    assert queue.end == pytest.approx(prefill.begin) and prefill.end == pytest.approx(decode.begin)
    assert queue.end < decode.end - 9 * 0.02 * 0.9, "nine steps of 20 ms, wherever a busy machine saw the first token"
    assert "secret" not in str(spans)


def test_over_grpc(traced: Server, collector: Collector) -> None:
    """A caller's metadata; a caller without any gets a trace that begins with the tokenizer."""
    trace = "2" * 32
    with Client(traced.grpc) as client:
        list(client.stream("Hi", Options(max_tokens=2), metadata=[("traceparent", parent(trace))]))
        stream = client.stream("Hi", Options(max_tokens=2))
        list(stream)
        with pytest.raises(InvalidRequest):
            client.generate([END + 1], Options(), metadata=[("traceparent", parent("3" * 32))])
    spans = collector.of_trace(trace, 5)
    assert [span.name for span in spans if span.parent == CALLER] == ["tokenize", "engine"]
    (refused,) = collector.of_trace("3" * 32, 1)
    assert refused.name == "tokenize" and refused.error.startswith("input_ids: ")
    (own,) = collector.having(lambda span: span.attributes.get("gen_ai.response.id") == stream.request_id)
    first = collector.of_trace(own.trace, 5)[0]
    assert (first.name, first.parent, own.parent) == ("tokenize", "", first.id)


def test_over_tritons_http(traced: Server, collector: Collector) -> None:
    trace = "4" * 32
    body = {"text_input": "Hi", "max_tokens": 2, "traceparent": parent(trace)}  # Triton 2.51 passes no headers on here
    assert httpx.post(f"{traced.http}/v2/models/qwen/generate", json=body).status_code == 200
    assert {span.name for span in collector.of_trace(trace, 5)} == {"tokenize", "engine", "queue", "prefill", "decode"}


def test_a_refused_request_and_one_that_is_left(traced: Server, collector: Collector) -> None:
    url, trace = f"{traced.gateway}/v1/completions", "5" * 32
    body = {"model": "qwen", "prompt": "Hi", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    assert httpx.post(url, json=body | {"top_p": 7}, headers={"traceparent": parent(trace)}).status_code == 400
    named = {s.name: s for s in collector.of_trace(trace, 3)}
    span = named["POST /v1/completions"]
    assert span.attributes["http.response.status_code"] == 400 and span.error == "" and span.attributes["error.type"]
    assert named["tokenize"].error.startswith("top_p: ")
    trace = "6" * 32
    with httpx.stream("POST", url, json=body, headers={"traceparent": parent(trace)}) as answer:
        next(answer.iter_lines())
    by = {(s.part, s.name): s for s in collector.of_trace(trace, 7)}
    assert by["qwen-triton.engine", "engine"].attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert by["qwen-triton.gateway", "POST /v1/completions"].attributes["http.response.status_code"] == 499


def test_a_collector_that_hangs_stops_neither_streams_nor_the_server(traced: Server, collector: Collector) -> None:
    """The last test of this server."""
    collector.mute.set()
    with Client(traced.grpc) as client:
        assert all(isinstance(each, object) and each.text for each in client.batch(["Hi"] * 300, Options(max_tokens=2)))
    assert stop_server(traced) == 0
