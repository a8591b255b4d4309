"""What the gRPC transport does when the host is silent."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from loadtest.errors import TransportError
from loadtest.scenarios.base import Request
from loadtest.transports.grpc_stream import Connections, GrpcTransport

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
