"""What both clients say of a request that cannot be sent, was refused or broke off."""

from __future__ import annotations

import contextlib
import socket
import threading

import httpx
import pytest

from client import NO_RETRY, AsyncClient, Client, Options, Retry, errors, refusals
from client.http_target import refused
from serving.host.ports import free_ports
from tests.client.fake_triton import FakeTriton


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            Options(max_tokens=2**40),
            "max_tokens: 1099511627776 is out of range; give an integer between 0 and ",
        ),
        (Options(seed=-1), "seed: -1 is out of range; give an integer between 0 and 18446744073709551615"),
        (
            Options(stop_token_ids=[1, 2**31]),
            "stop_token_ids: 2147483648 is out of range; give an integer between 0 and ",
        ),
        (Options(temperature=1e39), "temperature: 1e+39 is out of range; give a number between 0 and 2"),
        (Options(temperature="hot"), "temperature: 'hot' is not a number"),
        (Options(top_k=1.0), "top_k: 1.0 is not an integer"),
        (Options(stop=["a", 5]), "stop: 5 is not text"),
        (Options(stop=b"a"), "stop: b'a' is not text"),
        (Options(logprobs=5), "logprobs: 5 is not true or false"),
        (Options(stop=["\ud800"]), r"stop: '\ud800' is half a surrogate pair"),
    ],
)
def test_a_value_no_tensor_can_hold_is_named(fake: FakeTriton, options: Options, message: str) -> None:
    with Client(fake.grpc) as client, pytest.raises(errors.InvalidRequest) as caught:
        client.generate("x", options)
    assert str(caught.value).startswith(message) and caught.value.field == message.partition(":")[0]


@pytest.mark.parametrize(
    ("code", "message", "kind", "field"),
    [
        ("invalid_request", "top_p: 2 is above 1; use 0 < top_p <= 1", errors.InvalidRequest, "top_p"),
        ("unsupported", "min_p: the loaded engine cannot honour it", errors.Unsupported, "min_p"),
        ("duplicate_id", "request_id: 'a' is running", errors.DuplicateId, "request_id"),
        ("queue_full", "queue: 64 requests are waiting", errors.Overloaded, ""),
        ("engine_unavailable", "engine: the worker died; restarting", errors.EngineUnavailable, ""),
        ("context_length_exceeded", "messages: the prompt has 9 tokens", errors.ContextTooLong, "messages"),
        ("internal_error", "boom", errors.InternalError, ""),
        ("CANCELLED", "server is shutting down", errors.Cancelled, ""),
    ],
)
def test_server_errors_become_exceptions(fake: FakeTriton, code: str, message: str, kind: type, field: str) -> None:
    with Client(fake.grpc, retry=NO_RETRY) as client, pytest.raises(errors.ClientError) as caught:
        list(client.stream(f"ERR {code} {message}"))
    assert type(caught.value) is kind
    assert str(caught.value) == message, "the code word is not part of the sentence"
    assert caught.value.code == code.lower() and getattr(caught.value, "field", "") == field


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Request for unknown model: 'x' is not found", errors.ModelNotFound),
        (
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
            errors.EngineUnavailable,
        ),
        ("inference input data-type is 'FP32', model expects 'INT32' for 'qwen'", errors.InvalidRequest),
        ("expected 3 inputs but got 2 inputs for model 'qwen'", errors.InvalidRequest),
        ("[brackets] that are no code word of ours", errors.InternalError),
        ("queue: a sentence alone says nothing", errors.InternalError),
    ],
)
def test_tritons_own_errors_in_a_stream(fake: FakeTriton, message: str, kind: type) -> None:
    with Client(fake.grpc, retry=NO_RETRY) as client, pytest.raises(errors.ClientError) as caught:
        list(client.stream(f"TXT {message}"))
    assert type(caught.value) is kind
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("message", "process"),
    [
        ("Stub process 'detokenizer_0_0' is not healthy.", "the detokenizer process"),
        ("Failed to process the request(s) for model 'x', message: Stub process is not healthy.", "a model process"),
    ],
)
def test_a_model_process_that_is_gone_is_told_in_our_words(fake: FakeTriton, message: str, process: str) -> None:
    with Client(fake.grpc, retry=NO_RETRY) as client, pytest.raises(errors.EngineUnavailable) as caught:
        list(client.stream(f"TXT {message}"))
    line = f"engine: {process} does not answer; the server restarts it, try again soon"
    assert str(caught.value) == line
    assert str(refusals.from_grpc("INTERNAL", message, "here")) == line


@pytest.mark.parametrize("what", ["has no available versions", "version 1 is not at ready state"])
def test_a_model_that_triton_loads_or_unloads_is_no_unknown_one(fake: FakeTriton, what: str) -> None:
    """As an answer that is resumed at a draining server hears it: worth another try, there or elsewhere."""
    message = f"Request for unknown model: 'qwen' {what}"
    with Client(fake.grpc, retry=NO_RETRY) as client, pytest.raises(errors.EngineUnavailable) as caught:
        list(client.stream(f"TXT {message}"))
    line = "engine: the server is starting or stopping 'qwen'; try again soon"
    assert str(caught.value) == line
    assert str(refusals.from_grpc("UNAVAILABLE", message, "here")) == line


async def test_an_error_in_mid_stream_comes_after_the_text(fake: FakeTriton) -> None:
    texts = []
    async with AsyncClient(fake.grpc, retry=Retry(longest=0.05, patience=0.15)) as client:
        with pytest.raises(errors.EngineUnavailable, match="worker died"):
            async for chunk in client.stream("MID engine_unavailable engine: worker died"):
                texts.append(chunk.text)  # noqa: PERF401  # kept when the loop raises
    assert texts == ["w0", " w1"]
    first, *more = [sent.get("resume_ids") for sent in fake.requests]
    assert first is None and len(more) > 1 and all(ids == [0, 1] for ids in more), "never from the start"


def test_nobody_listens_is_one_line() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with Client(address, retry=NO_RETRY) as client, pytest.raises(errors.ConnectError) as caught:
        client.generate("x")
    assert address in str(caught.value) and "make serve" in str(caught.value) and "\n" not in str(caught.value)


def test_a_gap_and_a_cut_are_errors(fake: FakeTriton) -> None:
    with Client(fake.grpc) as client:
        with pytest.raises(errors.ChunkMissing, match="chunk 2 came where 1 was due"):
            list(client.stream("GAP"))
        fake.wait_free()
        with pytest.raises(errors.StreamCut, match="after 2 chunks"):
            list(client.stream("CUT"))


def test_a_port_that_speaks_the_other_protocol_is_named(fake: FakeTriton) -> None:
    with Client(f"http://{fake.grpc}") as client, pytest.raises(errors.ConnectError) as caught:
        client.generate("Hi")
    assert str(caught.value) == (
        f"http://{fake.grpc} answers, but not in HTTP/1.1: write {fake.grpc} without http:// if it is gRPC"
    )
    web = fake.metrics.removeprefix("http://").removesuffix("/metrics")
    with Client(web) as client, pytest.raises(errors.ConnectError) as caught:
        client.generate("Hi")
    assert str(caught.value) == f"{web} answers, but not in gRPC: write http://{web} if it is the gateway"


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, b"Not Found", errors.ModelNotFound, "write the gateway's address"),
        (404, b'{"detail": "Not Found"}', errors.ModelNotFound, "write the gateway's address"),
        (404, b'{"error": "no handler"}', errors.ModelNotFound, "write the gateway's address"),
        (405, b'{"error":"Method Not Allowed"}', errors.ModelNotFound, "answers HTTP 405; write the gateway's address"),
        (404, b'{"error": {"message": "no model x"}}', errors.ModelNotFound, "no model x"),
        (404, b'{"object": "error", "message": "no model x"}', errors.ModelNotFound, "no model x"),
    ],
)
def test_without_openais_words_it_is_another_server(status: int, body: bytes, kind: type[Exception], said: str) -> None:
    error = refused(httpx.Response(status, request=httpx.Request("POST", "http://host:8000/v1/completions")), body)
    assert type(error) is kind and said in str(error)


def test_tritons_http_port_is_no_grpc_port() -> None:
    """It closes the connection at HTTP/2's first bytes, and was said to need a server that is started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def close_at_once() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(65536)
                    connection.close()

        threading.Thread(target=close_at_once, daemon=True).start()
        with Client(address, retry=NO_RETRY) as client, pytest.raises(errors.ConnectError) as caught:
            client.generate("Hi")
        listener.shutdown(socket.SHUT_RDWR)
    assert "as Triton's HTTP and metrics ports do (make serve prints the gRPC one)" in str(caught.value)


def test_no_proxy_is_asked_for_a_grpc_server(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's own rule is to ask the environment's, for localhost too."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Client(fake.grpc, retry=NO_RETRY) as client:
        assert client.generate("SAY straight").text == "straight"
