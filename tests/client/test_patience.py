"""A server that has answered before is waited for while it restarts; an address that never answered is not."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from client import AsyncClient, Client, Options, Retry, errors
from client.patience import KnownServer, Patience
from contract.paths import ROOT
from tests.client.fake_triton import FakeTriton
from tests.client.test_failover import SERVER

DOWN = 1.5  # seconds: three attempts at these settings are over in 0.15 s
QUICK = Retry(backoff=0.05, longest=2.0, patience=6.0)
TOKENS = 30


@pytest.fixture
def restarts() -> Iterator[Callable[[FakeTriton], None]]:
    """Stops a fake; another takes its port later."""
    later: list[threading.Timer] = []
    new: list[FakeTriton] = []

    def restart(fake: FakeTriton) -> None:
        fake.stop()
        later.append(threading.Timer(DOWN, lambda: new.append(FakeTriton(port=fake.port).start())))
        later[-1].start()

    yield restart
    for timer in later:
        timer.join()
    for fake in new:
        fake.stop()


def test_a_request_outlasts_a_restart(restarts: Callable[[FakeTriton], None]) -> None:
    fake = FakeTriton().start()
    with Client(fake.grpc, retry=QUICK) as client:
        client.generate("Hi", Options(max_tokens=3))
        restarts(fake)
        assert client.generate("Hi", Options(max_tokens=3)).completion_tokens == 3


async def test_an_answer_goes_on_at_the_same_server(restarts: Callable[[FakeTriton], None]) -> None:
    fake = FakeTriton(step_ms=5).start()
    ids: list[int] = []
    async with AsyncClient(fake.grpc, retry=QUICK) as client:
        async for chunk in client.stream("Hi", Options(max_tokens=TOKENS)):
            if chunk.chunk_index == 5:
                restarts(fake)
            ids += chunk.token_ids
    assert ids == list(range(TOKENS))


def test_an_address_that_never_answered_fails_at_once() -> None:
    begin = time.monotonic()
    for address in ("127.0.0.1:9", "http://127.0.0.1:9"):
        with Client(address) as client, pytest.raises(errors.ConnectError, match=r"start one with: make serve$"):
            client.generate("Hi")
    assert time.monotonic() - begin < 5


def test_a_server_that_does_not_come_back_is_given_up() -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as server,
        Client(
            str(server.stdout and server.stdout.readline().strip()), retry=Retry(backoff=0.01, patience=0.6)
        ) as client,
    ):
        with pytest.raises(errors.ConnectError) as caught:
            for chunk in client.stream("Hi", Options(max_tokens=1000)):
                if chunk.chunk_index == 5:
                    server.kill()
        text = str(caught.value)
        assert "went away in the middle of the answer (after " in text and not re.search("TLS|make serve", text)
        assert text.count("may be restarting") == 1 and "cannot be resumed: no server answers at" in text
        begin = time.monotonic()
        for _ in range(20):  # those that come after an outage of that length do not wait for it again
            with pytest.raises(errors.ConnectError, match=r"no server answers at .*; it may be restarting$"):
                client.generate("Hi")
        assert time.monotonic() - begin < 6


class Restarting(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(503)
        self.send_header("retry-after", "3")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_time_that_a_gateway_names_is_waited_for_or_refused() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Restarting) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        begin = time.monotonic()
        with (
            Client(address, retry=Retry(longest=0.9, patience=2.7)) as client,
            pytest.raises(errors.EngineUnavailable) as caught,
        ):
            client.generate("Hi")
        assert caught.value.retry_after == 3 and time.monotonic() - begin < 2, "more than ``patience``"
        with Client(address, retry=Retry(longest=1.1, patience=3.3)) as client, pytest.raises(errors.EngineUnavailable):
            client.generate("Hi")
        assert time.monotonic() - begin > 3
        server.shutdown()


def test_the_end_of_patience() -> None:
    server, own = KnownServer(), Patience(Retry(patience=3.0))
    assert own.left(server) == 0.0, "it has never answered"
    server.answers()
    assert own.left(server) == pytest.approx(3.0)
    time.sleep(0.1)
    server.answers()  # others
    assert own.left(server) == pytest.approx(2.9, abs=0.05), "a request that always fails ends"
    own.renew()
    assert own.left(server) == pytest.approx(3.0, abs=0.05)
