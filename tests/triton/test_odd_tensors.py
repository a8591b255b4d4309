"""Whatever a message holds, it gets one clear error or an answer, the next small request is answered at once, and no
stranger's stream ends."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from client import NO_RETRY, Client, Options
from client.kserve import CHANNEL_OPTIONS
from contract.errors import from_wire
from tests.conftest import Server
from tests.triton.calls import Stream
from tests.triton.odd import DEADLY, HTTP, ODD, Odd

pytestmark = pytest.mark.triton
SMALL_SECONDS = 1.0
ENDING_SECONDS = 10.0
RESTART_SECONDS = 90.0  # a busy machine needs some of it


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[Stream]:
    """A stream that runs through all of this."""
    with Stream(server.grpc) as stream:
        stream.send(text_input="Hi", max_tokens=30_000, stream=True, ignore_eos=True)
        stream.next()
        yield stream
        stream.send(stop=True)


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc, CHANNEL_OPTIONS) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def outcome(stub: Any, odd: Odd) -> tuple[str, int]:
    """The error, and how many responses with outputs came; never silence."""
    error, answers = "", 0
    try:
        for message in stub.ModelStreamInfer(iter([odd.request()]), timeout=ENDING_SECONDS):
            error = error or message.error_message
            answers += bool(message.infer_response.outputs)
    except grpc.RpcError as problem:
        assert problem.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, "no end"
        error = f"{problem.code().name}: {problem.details()}"
    return error, answers


def is_well(server: Server, stranger: Stream) -> None:
    """A small request is answered in time, and the stranger's stream goes on."""
    while stranger.waiting:
        stranger.next()
    with Client(server.grpc, retry=NO_RETRY) as client:
        start = time.monotonic()
        assert client.generate("Hi", Options(max_tokens=1)).completion_tokens == 1
        took = time.monotonic() - start
    assert took < SMALL_SECONDS, took
    assert not stranger.next(5).get_response().id
    assert server.log.read_text().count("died") == 0


def is_clear(error: str) -> None:
    """Of ours; Triton's own repeat names and shapes of any length."""
    ours = from_wire(error)
    said = str(ours or error)
    assert (ours is None or len(said) < 600) and "Traceback" not in said, said
    assert not any(part in said for part in ("/model.py", "site-packages", "model_repository")), said


@pytest.mark.parametrize("name", ODD)
def test_over_grpc(name: str, server: Server, stub: Any, stranger: Stream) -> None:
    odd = ODD[name]
    error, answers = outcome(stub, odd)
    assert bool(error) != bool(answers), (error, answers)
    assert bool(answers) == odd.answers, error
    is_clear(error)
    is_well(server, stranger)


@pytest.mark.parametrize("name", HTTP)
def test_over_http(name: str, server: Server, stranger: Stream) -> None:
    url = f"{server.http}/v2/models/tokenizer/infer"  # ``qwen`` is decoupled: only /generate serves it
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, data=HTTP[name]), timeout=ENDING_SECONDS)
    assert 400 <= refused.value.code < 600
    is_clear(refused.value.read().decode(errors="replace"))
    is_well(server, stranger)


def test_what_is_no_message_at_all(server: Server, stranger: Stream) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        for raw in (b"", b"\xff" * 100, pb.ModelInferRequest(model_name="qwen").SerializeToString()[:-1] + b"\x0f"):
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError):
                call(raw, timeout=ENDING_SECONDS)
    is_well(server, stranger)


def test_what_ends_triton_ends_in_errors_and_a_restart(own_server: Callable[..., Server]) -> None:
    """SECURITY.md says who may send such things. Nobody waits for ever, and the server comes back by itself."""
    server = own_server("--runtime", "simulated", "--step-ms", "5")
    for number, odd in enumerate(DEADLY.values(), 1):
        with Stream(server.grpc) as stranger, grpc.insecure_channel(server.grpc, CHANNEL_OPTIONS) as channel:
            stranger.send(text_input="Hi", max_tokens=30_000, stream=True, ignore_eos=True)
            stranger.next()
            error, answers = outcome(service_pb2_grpc.GRPCInferenceServiceStub(channel), odd)
            assert error and not answers
            assert stranger.answer(5).error is not None
        server.wait_for(lambda number=number: server.log.read_text().count("serving again") == number, RESTART_SECONDS)
    with Client(server.grpc) as client:
        assert client.generate("Hi", Options(max_tokens=1)).completion_tokens == 1
