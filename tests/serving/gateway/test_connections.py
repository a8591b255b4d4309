"""Clients that send or read slowly, or never, and what the others notice."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from serving.gateway import connections
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT
from tests.serving.gateway.conftest import RunningGateway, Start

GOOD = {"messages": [{"role": "user", "content": "SAY ok"}]}
HALF_HEAD = b"POST %b HTTP/1.1\r\nhost: x\r\nx-slow: " % CHAT.encode()
HALF_BODY = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{" % CHAT.encode()
HALF_LARGE = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n" % CHAT.encode() + b" " * 7_000_000


@pytest.fixture
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened(gateway: RunningGateway, sent: bytes, stack: contextlib.ExitStack) -> socket.socket:
    url = httpx.URL(gateway.url)
    raw = stack.enter_context(socket.create_connection((url.host, url.port or 0), timeout=30))
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        raw.sendall(sent)
    return raw


def answered(gateway: RunningGateway) -> float:
    """Seconds that a small request on a new connection takes."""
    begin = time.monotonic()
    with httpx.Client(trust_env=False, verify=False, timeout=20) as client:
        assert client.post(gateway.url + CHAT, json=GOOD).status_code == 200
    return time.monotonic() - begin


def answers_promptly(gateway: RunningGateway) -> bool:
    """All are answered, and the quickest of five in no time: a busy machine delays some, a stopped gateway all."""
    return min(answered(gateway) for _ in range(5)) < 2.0


def end_of(raw: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            received += part
    return received


@pytest.mark.usefixtures("descriptors", "fake")
@pytest.mark.parametrize("sent", [HALF_HEAD, HALF_BODY, b""], ids=["headers", "bodies", "nothing"])
def test_thousands_of_half_requests_stop_nobody(own_gateway: Start, sent: bytes) -> None:
    gateway = own_gateway(GATEWAY_WORKERS="1", GATEWAY_MAX_CONNECTIONS="500")
    with contextlib.ExitStack() as stack:
        for _ in range(2100):
            opened(gateway, sent, stack)
        assert answers_promptly(gateway)


LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nhost: http://a/\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.0\r\n\r\n", 200),
        (b"GET /health/live HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n", 200),
        (b"GET /health/live HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n\r\n", 200),
        (b"GET http://a/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 200),
    ],
)
def test_one_host_header(gateway: RunningGateway, head: bytes, status: int) -> None:
    """RFC 9112 3.2."""
    with contextlib.ExitStack() as stack:
        answer = end_of(opened(gateway, head, stack))
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        if status == 400:
            assert b"Host" in answer and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"rubbish\r\n\r\n", b"400 Bad Request"),
        (b"GET /%b HTTP/1.1\r\n" % (b"a" * 17_000), b"414 URI Too Long"),
        (
            b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n" % CHAT.encode(),
            b"400 Bad Request",
        ),
    ],
    ids=["no Host", "rubbish", "long URL", "broken chunk"],
)
def test_what_is_refused_waits_for_the_answers_before_it(gateway: RunningGateway, wrong: bytes, status: bytes) -> None:
    """Pipelined behind a stream, a refusal in the middle of it would be read as its text."""
    body = json.dumps(
        {**GOOD, "stream": True, "messages": [{"role": "user", "content": "w"}], "max_tokens": 50}
    ).encode()
    good = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)) + body
    with contextlib.ExitStack() as stack:
        received = end_of(opened(gateway, good + LIVE + wrong, stack))
    first, second, refusal = (part.partition(b"\r\n") for part in received.split(b"HTTP/1.1 ")[1:])
    assert (first[0], second[0], refusal[0]) == (b"200 OK", b"200 OK", status)
    assert first[2].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and b"w49" in first[2]


def test_a_broken_body_is_refused_at_once(gateway: RunningGateway) -> None:
    broken = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n" % CHAT.encode()
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        assert end_of(opened(gateway, broken, stack)).count(b"HTTP/1.1 400 ") == 1
    assert time.monotonic() - begin < 5, "the body has 10 s to arrive"


@pytest.mark.parametrize("size", [17_000, 70_000])
@pytest.mark.parametrize(
    ("head", "status", "said"),
    [
        (
            b"GET /v1/models/%b HTTP/1.1\r\nhost: x\r\n\r\n",
            414,
            "the URL exceeds 16384 bytes; send what it holds in the body",
        ),
        (b"GET /v1/models?x=%b HTTP/1.1\r\nhost: x\r\n\r\n", 414, "the URL exceeds 16384 bytes"),
        (
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\ncookie: %b\r\n\r\n",
            431,
            "the headers exceed 65536 bytes; send fewer",
        ),
    ],
    ids=["path", "query", "header"],
)
def test_a_long_head_is_refused_with_its_limit(
    gateway: RunningGateway, head: bytes, status: int, said: str, size: int
) -> None:
    if status == 431 and size < 65_536:
        status, said = 200, "qwen"
    with contextlib.ExitStack() as stack:
        raw = opened(gateway, head % (b"a" * size) * 2, stack)  # nothing is read of a second request
        raw.settimeout(3)
        received = raw.recv(65536)
        while b"}" not in received:
            received += raw.recv(65536)
        first, _, body = received.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status) and said in body.decode()
        if status != 200:
            error = json.loads(body)["error"]
            assert error["type"] == "invalid_request_error" and end_of(raw) == b""


@pytest.mark.usefixtures("fake")
def test_headers_must_arrive(own_gateway: Start) -> None:
    gateway = own_gateway(GATEWAY_WORKERS="1")
    with contextlib.ExitStack() as stack:
        begin = time.monotonic()
        silent, slow = opened(gateway, b"", stack), opened(gateway, HALF_HEAD, stack)
        late = end_of(slow)
        assert late.startswith(b"HTTP/1.1 408") and json.loads(late.split(b"\r\n\r\n")[1])["error"]["code"] == "timeout"
        assert end_of(silent) == b""
        assert connections.HEADER_SECONDS - 1 < time.monotonic() - begin < connections.HEADER_SECONDS + 5
        endless = opened(gateway, HALF_HEAD + b"x" * 200_000, stack)
        assert end_of(endless)[:12] in (b"HTTP/1.1 431", b"")  # nothing: what is still unread resets the connection


def test_large_half_bodies_make_room(own_gateway: Start, fake: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_WORKERS="1")
    whole = json.dumps({"messages": [{"role": "user", "content": "SAY " + "x" * 1_000_000}], "max_tokens": 1}).encode()
    with contextlib.ExitStack() as stack:
        half = [opened(gateway, HALF_LARGE, stack) for _ in range(40)]
        with httpx.Client(trust_env=False, verify=False, timeout=20) as client:
            assert client.post(gateway.url + CHAT, content=whole).status_code == 200
        assert answers_promptly(gateway)
        assert end_of(half[0]).startswith(b"HTTP/1.1 408")


@pytest.mark.usefixtures("fake")
def test_who_reads_nothing_is_let_go(own_gateway: Start) -> None:
    """Also where no generating endpoint watches: a file, asked for many times, and never read."""
    gateway = own_gateway(GATEWAY_WORKERS="1", GATEWAY_WRITE_SECONDS="1")
    with contextlib.ExitStack() as stack:
        url = httpx.URL(gateway.url)
        raw = stack.enter_context(socket.socket())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((url.host, url.port))
        raw.sendall(b"GET /static/vendor/temml.js HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        time.sleep(3.5)
        received = 0
        raw.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while part := raw.recv(1 << 20):
                received += len(part)
        assert received < 8 << 20, "it was not answered in full, and the connection has ended"
        assert answers_promptly(gateway)


def test_open_files_follow_the_wanted_number(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [256, 256]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    assert connections.most_connections(1000) == 256 - connections.SPARE_FILES
    limits[:] = [256, 1 << 20]
    assert connections.most_connections(1000) == 1000 and limits[0] == 1000 + connections.SPARE_FILES
