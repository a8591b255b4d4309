"""What clients do to a server in the wild: stall, vanish, send too much, and a SIGTERM in the middle of it all."""

from __future__ import annotations

import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Server
from tests.triton.processes import command

pytestmark = pytest.mark.triton
MESSAGES = [{"role": "user", "content": "Say something."}]


def body(**options: Any) -> dict[str, Any]:
    return {"model": "qwen", "messages": MESSAGES, "max_tokens": 16, "ignore_eos": True} | options


def request_bytes(**options: Any) -> bytes:
    data = json.dumps(body(**options)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + data


def connect(server: Server, receive_buffer: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(10)
    client.connect(("127.0.0.1", server.gateway_port))
    return client


def reset(client: socket.socket) -> None:
    """Closes with RST: what a killed browser or a dropped network leaves."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def slots(server: Server) -> float:
    return server.metric("qwen_slots_used")


def gateway_processes(server: Server) -> list[psutil.Process]:
    """The processes that listen on the gateway's port."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in family if any("serving.gateway" in word for word in command(child))]


def sockets_of(server: Server) -> int:
    """Open client connections of the gateway."""
    connections = psutil.net_connections("tcp4")
    return sum(
        each.laddr.port == server.gateway_port and each.status != psutil.CONN_LISTEN for each in connections if each.pid
    )


def all_workers_listen(server: Server) -> bool:
    """The first that does makes the server ready."""
    workers = {p.pid for p in gateway_processes(server) if "serving.gateway.worker" in command(p)}
    connections = psutil.net_connections("tcp4")
    return bool(workers) and workers <= {
        each.pid for each in connections if each.laddr.port == server.gateway_port and each.status == psutil.CONN_LISTEN
    }


def answered(server: Server, **options: Any) -> float:
    """Seconds for one whole small answer."""
    start = time.monotonic()
    answer = httpx.post(f"{server.gateway}/v1/chat/completions", json=body(**options), timeout=30, verify=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 16
    return time.monotonic() - start


def triton_processes(server: Server) -> set[int]:
    family = psutil.Process(server.process.pid).children(recursive=True)
    return {child.pid for child in family if child.name() == "tritonserver"}


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    """Whatever a test does, the engine's slots are free soon after, and it is still the same Triton."""
    before = triton_processes(server)
    yield
    server.wait_for(lambda: slots(server) == 0, seconds=10)
    assert before and triton_processes(server) == before, "Triton crashed and was restarted"


def test_a_client_that_goes_away_frees_its_slot(server: Server) -> None:
    client = connect(server)
    client.sendall(request_bytes(stream=True, max_tokens=2000))
    assert client.recv(100).startswith(b"HTTP/1.1 200")
    server.wait_for(lambda: slots(server) == 1, seconds=5)
    reset(client)
    server.wait_for(lambda: slots(server) == 0, seconds=2)


def test_readers_that_stall_do_not_stall_others(server: Server) -> None:
    stalled = [connect(server, receive_buffer=2048) for _ in range(4)]
    for client in stalled:
        client.sendall(request_bytes(stream=True, n=8, max_tokens=1500))
    server.wait_for(lambda: slots(server) >= 8, seconds=10)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: answered(server), range(24)))) == 24
    for client in stalled:
        reset(client)


def test_500_connections_opened_and_dropped_leave_nothing(server: Server) -> None:
    answered(server)
    server.wait_for(lambda: all_workers_listen(server) and sockets_of(server) == 0, seconds=30)
    files = sum(process.num_fds() for process in gateway_processes(server))
    whole = request_bytes(stream=True, max_tokens=500)
    for number in range(500):
        client = connect(server)
        client.sendall((b"", b"POST /v1/ch", whole[:150], whole)[number % 4])
        reset(client) if number % 8 < 4 else client.close()
    server.wait_for(lambda: slots(server) == 0 and sockets_of(server) == 0, seconds=20)
    answered(server)
    server.wait_for(lambda: sum(process.num_fds() for process in gateway_processes(server)) <= files + 4, seconds=10)


def test_hundreds_of_refused_and_abandoned_requests_do_not_crash_triton(server: Server) -> None:
    """Errors as gRPC statuses and cancelled RPCs each bring Triton 2.51 down within some hundred (client/_call.py)."""
    bad = request_bytes(repetition_penalty=-2.0)

    def one(number: int) -> None:
        client = connect(server)
        client.sendall(bad if number % 4 == 0 else request_bytes(stream=True, max_tokens=300))
        assert client.recv(100).startswith(b"HTTP/1.1 400" if number % 4 == 0 else b"HTTP/1.1 200")
        reset(client)

    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(one, range(300)))) == 300
    answered(server)


def test_half_sent_requests_do_not_keep_others_waiting(server: Server) -> None:
    halves = [connect(server) for _ in range(50)]
    for client in halves:
        client.sendall(request_bytes()[:-10])
    assert answered(server) < 10
    for client in halves:
        client.close()


def test_a_client_that_closes_its_sending_side_gets_its_answer_or_frees_its_slot(server: Server) -> None:
    with closing(connect(server)) as client:
        client.sendall(request_bytes())
        client.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received == b"" or received.startswith(b"HTTP/1.1 200")
    server.wait_for(lambda: slots(server) == 0, seconds=2)


def chunks(total: int) -> Iterator[bytes]:
    piece = b"x" * 2**20
    yield b'{"model": "qwen", "messages": [{"role": "user", "content": "'
    for _ in range(total >> 20):
        yield piece


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
def test_a_100_mb_body_is_refused_without_being_kept(server: Server, announced: bool) -> None:
    before = sum(process.memory_info().rss for process in gateway_processes(server))
    size = 100 << 20
    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(size + 60)} if announced else {})
    status, answer = post_stream(server, headers, chunks(size))
    assert status == 413, answer
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    grown = sum(process.memory_info().rss for process in gateway_processes(server)) - before
    assert grown < 40 << 20, f"the gateway grew by {grown >> 20} MiB"


def post_stream(server: Server, headers: dict[str, str], pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """Sends until the server answers, as curl does; httpx would only look after the last byte."""
    with closing(connect(server)) as client:
        chunked = "Content-Length" not in headers
        lines = [f"{name}: {value}" for name, value in headers.items()] + (
            ["Transfer-Encoding: chunked"] if chunked else []
        )
        client.sendall(("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        sender = threading.Thread(target=send_all, args=(client, pieces, chunked), daemon=True)
        sender.start()
        received = client.recv(65536)
        while b"\r\n\r\n" not in received or not received.partition(b"\r\n\r\n")[2].rstrip().endswith(b"}"):
            received += client.recv(65536)
    sender.join(10)
    head, _, answer = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), answer


def send_all(client: socket.socket, pieces: Iterator[bytes], chunked: bool) -> None:
    try:
        for piece in pieces:
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    except OSError:
        return  # the server has answered and closed: what this test is about


BAD_BODIES = [
    (b"{", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"", 400),
    (b"\xff\xfe\x00", 400),
    (b'{"model": "qwen", "messages": [{"role": "user", "content": "\xff"}]}', 400),
    (b'{"model": "qwen", "messages": "hi"}', 400),
    (b'{"model": "qwen", "messages": []}', 400),
    (b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}', 400),
    (b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
    (b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "nonsense": 1}', 400),
    (b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}', 404),
    (b"[" * 100_000, 400),
    (b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5000 + b"}", 400),
]


@pytest.mark.parametrize(("data", "status"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_bad_bodies_get_the_right_status_and_shape(server: Server, data: bytes, status: int) -> None:
    url = f"{server.gateway}/v1/chat/completions"
    answer = httpx.post(url, content=data, headers={"Content-Type": "application/json"}, timeout=30, verify=False)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and len(error["message"]) < 600


@pytest.fixture
def drained(own_server: Callable[..., Server]) -> Server:
    return own_server("--runtime", "simulated", "--step-ms", "20", "--drain", "8", gateway=True)


def test_sigterm_lets_open_streams_end_and_refuses_new_ones(drained: Server) -> None:
    url = f"{drained.gateway}/v1/chat/completions"
    texts: list[str] = []

    def stream() -> None:
        with httpx.stream("POST", url, json=body(stream=True, max_tokens=100), timeout=30) as answer:
            texts.append("".join(answer.iter_text()))

    threads = [threading.Thread(target=stream) for _ in range(8)]
    for thread in threads:
        thread.start()
    drained.wait_for(lambda: slots(drained) == 8, seconds=10)
    drained.process.send_signal(signal.SIGTERM)
    drained.wait_for(lambda: ready(drained) != 200, seconds=2)
    for thread in threads:
        thread.join(20)
    assert [text.rstrip().endswith("data: [DONE]") for text in texts] == [True] * 8
    assert drained.process.wait(timeout=20) == 0


def ready(server: Server) -> int:
    """Status of the readiness probe; 0 when the port is closed, which a balancer takes the same way."""
    try:
        return httpx.get(f"{server.gateway}/health/ready", timeout=5).status_code
    except httpx.TransportError:
        return 0
