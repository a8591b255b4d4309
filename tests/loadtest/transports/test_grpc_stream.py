"""What the gRPC transport does when the host is silent."""

from __future__ import annotations

import struct
import time

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer
from hpack import Encoder

from loadtest.errors import TransportError
from loadtest.scenarios.base import Request
from loadtest.transports import http2
from loadtest.transports.grpc_stream import Connections, GrpcTransport
from loadtest.transports.http2 import frame
from tests.loadtest.transports.test_http2 import exactly, receive_frames, request_ended

REQUEST = Request(({"role": "user", "content": "hi"},), 3, 1)


def kind_after(transport: GrpcTransport) -> tuple[str, float]:
    start = time.monotonic()
    with pytest.raises(TransportError) as failed:
        transport.stream(REQUEST, lambda stamp, tokens: True)
    return failed.value.kind, time.monotonic() - start


def test_the_time_out_holds_while_another_stream_opens_the_connection() -> None:
    """A host that answers no SYN holds each of them for ten seconds, one after another."""
    server = Connections("127.0.0.1", 1)
    transport = GrpcTransport(server, "qwen", timeout=0.1, ignore_eos=True)

    def hold() -> None:
        with server._opening:
            gevent.sleep(5)

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    kind, seconds = kind_after(transport)
    holder.kill()
    assert kind == "timeout" and 0.05 < seconds < 3


@pytest.mark.parametrize(
    "refusal",
    [frame(http2.RST_STREAM, 0, 1, struct.pack(">L", 7)), frame(http2.GOAWAY, 0, 0, struct.pack(">LL", 0, 0))],
)
def test_what_the_server_never_looked_at_is_sent_again(refusal: bytes) -> None:
    """A proxy that closes its connections now and then is no failing server."""
    asked: list[int] = []

    def handle(sock: socket.socket, address: object) -> None:
        asked.append(0)
        sock.sendall(frame(http2.SETTINGS, 0, 0, b""))
        exactly(sock, len(http2.PREFACE))
        receive_frames(sock, request_ended)
        end = Encoder().encode([(":status", "200"), ("grpc-status", "8")])
        answer = frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, end)
        sock.sendall(refusal if len(asked) == 1 else answer)

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    transport = GrpcTransport(Connections("127.0.0.1", server.server_port), "qwen", timeout=5, ignore_eos=True)
    kind, _ = kind_after(transport)
    transport.close()
    server.stop(timeout=1)
    assert kind == "queue_full" and len(asked) == 2


def test_a_prompt_that_the_server_does_not_take_is_given_up_in_time() -> None:
    def handle(sock: socket.socket, address: object) -> None:
        sock.sendall(frame(http2.SETTINGS, 0, 0, b""))
        while sock.recv(65536):
            pass

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    transport = GrpcTransport(Connections("127.0.0.1", server.server_port), "qwen", timeout=0.2, ignore_eos=True)
    with pytest.raises(TransportError, match=r"^timeout: no end after 0.2 s"):
        transport.stream(Request(({"role": "user", "content": "hi " * 60_000},), 3, 1), lambda stamp, tokens: True)
    transport.close()
    server.stop(timeout=1)


def test_a_server_that_takes_the_connection_and_says_nothing() -> None:
    def silent(sock: socket.socket, address: object) -> None:
        while sock.recv(65536):
            pass

    server = StreamServer(("127.0.0.1", 0), silent)
    server.start()
    transport = GrpcTransport(Connections("127.0.0.1", server.server_port), "qwen", timeout=0.2, ignore_eos=True)
    kind, seconds = kind_after(transport)
    transport.close()
    server.stop(timeout=1)
    assert kind == "timeout" and 0.1 < seconds < 3
