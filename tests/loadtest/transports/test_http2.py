"""The HTTP/2 reader against frames that a well-behaved grpcio server never happens to send."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.errors import TransportError
from loadtest.transports import http2
from loadtest.transports.grpc_stream import refusal
from loadtest.transports.http2 import Connection, Stream, frame

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
TAIL = [("grpc-status", "0")]


class Collect:
    def __init__(self, leave_after: int = 10**9) -> None:
        self.got: list[bytes] = []
        self.leave_after = leave_after

    def message(self, payload: bytes, stamp: float) -> bool:
        self.got.append(payload)
        return len(self.got) < self.leave_after


def grpc(payload: bytes) -> bytes:
    return struct.pack(">BL", 0, len(payload)) + payload


def receive_frames(sock: Any, until: Callable[[int, int], bool]) -> list[tuple[int, int, int, bytes]]:
    """Frames of the client, up to the first for which ``until(kind, flags)``."""
    frames: list[tuple[int, int, int, bytes]] = []
    while not frames or not until(*frames[-1][:2]):
        head = exactly(sock, 9)
        if len(head) < 9:
            break
        high, low, kind, flags, number = http2.FRAME.unpack(head)
        frames.append((kind, flags, number, exactly(sock, high << 8 | low)))
    return frames


def exactly(sock: Any, size: int) -> bytes:
    """``size`` bytes, or fewer when the client hangs up."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def call(script: Callable[[Any], None], handler: Collect, body: bytes = b"question") -> tuple[Connection, Stream]:
    """Run ``script(socket)`` as the server of one call, after the client's preface and request."""

    def handle(sock: Any, address: Any) -> None:
        assert sock.recv(len(http2.PREFACE)) == http2.PREFACE
        sock.sendall(frame(http2.SETTINGS, 0, 0, b""))
        script(sock)

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    connection = Connection("127.0.0.1", server.server_port)
    stream = connection.open("/s/m", {}, body, handler)
    stream.done.wait(60)
    server.stop(timeout=1)
    return connection, stream


def request_ended(kind: int, flags: int) -> bool:
    return kind == http2.DATA and bool(flags & http2.END_STREAM)


def test_padding_priority_continuation_ping_and_split_messages() -> None:
    replies: list[Any] = []

    def script(sock: Any) -> None:
        receive_frames(sock, request_ended)
        encoder = Encoder()
        block = encoder.encode(HEAD)
        sock.sendall(frame(http2.SETTINGS, 0, 0, struct.pack(">HL", http2.MAX_FRAME_SIZE, 20_000)))
        sock.sendall(frame(http2.PING, 0, 0, b"12345678") + frame(0xFA, 0, 0, b"unknown frame types are ignored"))
        sock.sendall(frame(http2.HEADERS, http2.PRIORITY, 1, b"\0\0\0\0\x10" + block[:3]))
        sock.sendall(frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[3:]))
        payload = grpc(b"one") + grpc(b"two") + grpc(b"")
        sock.sendall(frame(http2.DATA, http2.PADDED, 1, b"\x03" + payload[:7] + b"\0\0\0"))
        for byte in payload[7:]:
            sock.sendall(frame(http2.DATA, 0, 1, bytes([byte])))
        sock.sendall(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, encoder.encode(TAIL)))
        replies.extend(receive_frames(sock, lambda kind, flags: kind == http2.PING))

    handler = Collect()
    _, stream = call(script, handler)
    gevent.sleep(0.05)
    assert handler.got == [b"one", b"two", b""] and stream.error == "" and stream.headers["grpc-status"] == "0"
    assert (http2.SETTINGS, http2.ACK, 0, b"") in replies and (http2.PING, http2.ACK, 0, b"12345678") in replies


def test_a_large_prompt_waits_for_the_servers_window() -> None:
    body = bytes(200_000)
    sizes: list[int] = []

    def script(sock: Any) -> None:
        receive_frames(sock, lambda kind, flags: kind == http2.HEADERS)
        while got := receive_frames(sock, lambda kind, flags: kind == http2.DATA):
            sizes.append(len(got[-1][3]))
            if request_ended(*got[-1][:2]):
                break
            credit = struct.pack(">L", sizes[-1])
            sock.sendall(frame(http2.WINDOW_UPDATE, 0, 0, credit) + frame(http2.WINDOW_UPDATE, 0, 1, credit))
        block = Encoder().encode([*HEAD, *TAIL])
        sock.sendall(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block))

    _, stream = call(script, Collect(), body)
    assert stream.error == "" and sum(sizes) == len(body) + 5 and max(sizes) <= 16_384


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (frame(http2.RST_STREAM, 0, 1, struct.pack(">L", 2)), "reset by the server (HTTP/2 code 2)"),
        (frame(http2.GOAWAY, 0, 0, struct.pack(">LL", 0, 0)), "the server is going away"),
        (b"", "the server closed the connection"),
        (frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), ""),
    ],
)
def test_every_way_to_break_ends_the_stream(answer: bytes, says: str) -> None:
    def script(sock: Any) -> None:
        receive_frames(sock, request_ended)
        sock.sendall(answer)
        if answer:
            gevent.sleep(0.2)
        sock.close()

    _, stream = call(script, Collect())
    assert stream.done.is_set() and stream.error and says in stream.error


def test_walking_away_resets_the_stream() -> None:
    seen: list[Any] = []

    def script(sock: Any) -> None:
        receive_frames(sock, request_ended)
        sock.sendall(frame(http2.HEADERS, http2.END_HEADERS, 1, Encoder().encode(HEAD)))
        sock.sendall(frame(http2.DATA, 0, 1, grpc(b"a") + grpc(b"b") + grpc(b"c")))
        seen.extend(receive_frames(sock, lambda kind, flags: kind == http2.RST_STREAM))

    handler = Collect(leave_after=2)
    connection, stream = call(script, handler)
    gevent.sleep(0.1)
    assert handler.got == [b"a", b"b"] and stream.error == "cancelled" and not connection.streams
    assert seen[-1][0] == http2.RST_STREAM and seen[-1][3] == struct.pack(">L", http2.CANCEL)


@given(st.lists(st.binary(max_size=300), max_size=12), st.lists(st.integers(1, 50), min_size=1, max_size=30))
@settings(max_examples=60)
def test_messages_survive_any_cut(messages: list[bytes], cuts: list[int]) -> None:
    handler, data, at, k = Collect(), b"".join(grpc(m) for m in messages), 0, 0
    stream = Stream(1, handler, 0)
    while at < len(data):
        size = cuts[k % len(cuts)]
        stream.feed(data[at : at + size], 0.0)
        at, k = at + size, k + 1
    assert handler.got == messages


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("14", "[queue_full] queue%3A 9 wait", "queue_full"), ("14", "[engine_unavailable] x", "engine_unavailable"),
        ("14", "Socket closed", "connect"), ("14", "loading", "engine_unavailable"), ("5", "x", "model_not_found"),
        ("3", "max_tokens: 0", "invalid_request"), ("4", "", "timeout"), ("13", "x", "internal_error"),
        ("", "", "not_grpc"),
    ],
)  # fmt: skip
def test_refusals_are_counted_by_kind(status: str, message: str, kind: str) -> None:
    error = refusal(status, {"grpc-message": message})
    assert isinstance(error, TransportError) and error.kind == kind


def test_nobody_there_is_an_os_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(OSError):
        Connection("127.0.0.1", port)
