"""A stream whose server dies goes on at another one: every token once, in order, counted through."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from client import NO_RETRY, AsyncClient, Client, Options, Retry, Timeouts, errors, kserve
from client.channels import Channels
from contract.paths import ROOT
from tests.client.fake_triton import FakeTriton

TOKENS = 60
WORDS = " ".join(f"w{i}" for i in range(TOKENS))


@pytest.fixture
def pair() -> Iterator[tuple[FakeTriton, FakeTriton]]:
    both = FakeTriton().start(), FakeTriton().start()
    yield both
    for fake in both:
        fake.stop()


def of(pair: tuple[FakeTriton, FakeTriton]) -> str:
    return ",".join(fake.grpc for fake in pair)


@pytest.mark.parametrize("dies_at", [1, 20, TOKENS - 1])
def test_a_stream_goes_on_where_it_broke(pair: tuple[FakeTriton, FakeTriton], dies_at: int) -> None:
    pair[0].dies_at = dies_at
    options = Options(max_tokens=TOKENS, seed=5, return_prompt_ids=True)
    with Client(of(pair)) as client:
        chunks = list(client.stream("Hi", options))
    assert "".join(chunk.text for chunk in chunks) == WORDS
    assert [i for chunk in chunks for i in chunk.token_ids] == list(range(TOKENS))
    assert [chunk.chunk_index for chunk in chunks] == list(range(TOKENS))
    assert [i for chunk in chunks for i in chunk.prompt_ids] == [5, 6, 7]
    assert (chunks[-1].finish_reason, chunks[-1].completion_tokens) == ("length", TOKENS)
    (resumed,) = pair[1].requests
    assert resumed["resume_ids"] == list(range(dies_at)) and "return_prompt_ids" not in resumed
    assert (resumed["seed"], resumed["max_tokens"], resumed["text_input"]) == (5, TOKENS, "Hi")


async def test_the_same_with_asyncio_and_ids_of_the_caller(pair: tuple[FakeTriton, FakeTriton]) -> None:
    pair[0].dies_at = 20
    async with AsyncClient(of(pair)) as client:
        got = [c async for c in client.stream("Hi", Options(max_tokens=TOKENS, resume_ids=range(7)))]
    assert [i for chunk in got for i in chunk.token_ids] == list(range(7, TOKENS))
    assert [chunk.chunk_index for chunk in got] == list(range(TOKENS - 7))
    assert pair[1].requests[0]["resume_ids"] == list(range(20))


async def test_a_server_that_hangs_is_as_good_as_gone(pair: tuple[FakeTriton, FakeTriton]) -> None:
    pair[0].hangs_at = 20
    limits = Timeouts(between_chunks=0.3)
    async with AsyncClient(of(pair), timeouts=limits) as client:
        got = [c async for c in client.stream("Hi", Options(max_tokens=TOKENS))]
    assert [i for chunk in got for i in chunk.token_ids] == list(range(TOKENS))
    assert await asyncio.to_thread(pair[0].wait_free) < 1, "it is told to stop all the same"
    with Client(of(pair), timeouts=limits) as client:
        assert client.generate("Hi", Options(max_tokens=TOKENS)).text == WORDS  # whole answers have no pauses to bound
        with pytest.raises(errors.RequestTimeout, match=r"0\.3 s \(between chunks\).*only answers with n = 1"):
            list(client.stream("Hi", Options(max_tokens=TOKENS, n=2)))


def test_two_sequences_are_not_spliced(pair: tuple[FakeTriton, FakeTriton]) -> None:
    pair[0].dies_at = 3
    with Client(of(pair)) as client, pytest.raises(errors.EngineUnavailable, match=r"it died.*only answers with n = 1"):
        list(client.stream("Hi", Options(max_tokens=TOKENS, n=2)))
    assert not pair[1].requests


def test_no_retry_means_no_resuming_either(pair: tuple[FakeTriton, FakeTriton]) -> None:
    pair[0].dies_at = 3
    with Client(of(pair), retry=Retry(attempts=1)) as client, pytest.raises(errors.EngineUnavailable):
        list(client.stream("Hi", Options(max_tokens=TOKENS)))


def test_an_engine_that_cannot_go_on_leaves_the_first_error(fake: FakeTriton) -> None:
    fake.dies_at = 3
    with (
        Client(fake.grpc) as client,
        pytest.raises(errors.EngineUnavailable, match=r"it died.*cannot be resumed: resume_ids"),
    ):
        for chunk in client.stream("Hi", Options(max_tokens=TOKENS)):
            if chunk.chunk_index == 1:
                fake.refuses = "[unsupported] resume_ids: the loaded engine cannot honour it"


def test_a_server_that_is_gone_for_good_leaves_the_first_error() -> None:
    fake = FakeTriton().start()
    with (
        Client(fake.grpc, retry=Retry(backoff=0.01, patience=0.3)) as client,
        pytest.raises(errors.ClientError, match=r".+; the answer cannot be resumed: no server answers at"),
    ):
        for chunk in client.stream("Hi", Options(max_tokens=TOKENS)):
            if chunk.chunk_index == 2:
                fake.stop()


SERVER = """
from tests.client.fake_triton import FakeTriton
fake = FakeTriton()
fake.step_ms = 5
print(fake.start().grpc, flush=True)
input()
"""


async def test_a_host_that_is_gone_in_mid_stream_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stay open and nothing comes; gRPC's own pings are under way, as always while data flow."""
    options = dict(kserve.CHANNEL_OPTIONS)
    assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"] <= 10_000
    quick = options | {"grpc.http2.ping_timeout_ms": 1_000, "grpc.keepalive_timeout_ms": 1_000}
    monkeypatch.setattr(kserve, "CHANNEL_OPTIONS", tuple(quick.items()))
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stdout
        async with AsyncClient(server.stdout.readline().strip(), retry=NO_RETRY) as client:

            async def read() -> None:
                async for chunk in client.stream("count", Options(max_tokens=2000)):
                    if chunk.chunk_index == 100:
                        server.send_signal(signal.SIGSTOP)

            try:
                with pytest.raises(errors.ConnectError, match="ping timeout"):
                    await asyncio.wait_for(read(), 40)
            finally:
                server.kill()


def test_the_fewest_open_requests_come_first_and_a_failed_one_last() -> None:
    channels = Channels(["a", "b", "c"])
    assert [channels.pick() for _ in range(4)] == ["a", "b", "c", "a"]
    channels.left("b", failed=True)
    assert channels.pick() == "c"
    home = Channels(["a", "b"], home=True)
    assert [home.pick(), home.pick()] == ["a", "a"]
    home.left("a", failed=True)
    assert home.pick() == "b"


def test_load_is_spread(pair: tuple[FakeTriton, FakeTriton]) -> None:
    with Client(of(pair)) as client:
        streams = [threading.Thread(target=list, args=(client.stream("Hi", Options(max_tokens=TOKENS)),))
                   for _ in range(10)]  # fmt: skip
        for stream in streams:
            stream.start()
        for stream in streams:
            stream.join()
    assert [len(fake.requests) for fake in pair] == [5, 5]


@pytest.mark.parametrize("address", ["a:1,http://b:2", "http://a:1,http://b:2"])
def test_several_addresses_are_tritons(address: str) -> None:
    with pytest.raises(ValueError, match="several addresses are for gRPC"):
        Client(address)
