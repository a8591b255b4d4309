"""A small HTTP/2 client for gRPC on gevent sockets, made for one purpose: many long streams, stamped exactly, cheaply.

Why not grpcio: under gevent every message crosses threads and costs 220–360 µs of CPU, and its delivery delay (3 ms
idle, 10–19 ms at 64 streams) is counted as the server's latency. Here one greenlet reads a connection and hands each
message to its stream in place: no thread, no switch per message. Header compression is the ``hpack`` package's.

Frames and rules are RFC 9113's; the gRPC framing is doc/PROTOCOL-HTTP2.md's: 5 bytes of prefix (flag, length), then the
message. Both receive windows are opened to the maximum once and topped up every gigabyte.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gevent import socket
from gevent.event import Event
from gevent.lock import RLock
from hpack import Decoder, Encoder, HPACKError

from contract.authority import authority
from loadtest.transports.arrival import receive, stamped
from loadtest.transports.tls import TlsSocket

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
REFUSED_STREAM, CANCEL = 7, 8
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 3, 4, 5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW, MAX_WINDOW, TOP_UP = 65_535, 2**31 - 1, 2**30
BLOCK, CONNECT_TIMEOUT = 262_144, 10.0
FRAME = struct.Struct(">HBBBL")  # length (16 + 8 bits), type, flags, stream


class StreamHandler(Protocol):
    """Receives the messages of a stream. Called from the connection's reader, so it must not block."""

    def message(self, payload: bytes, stamp: float) -> bool:
        """One gRPC message and its arrival (``time.monotonic``). False cancels the stream."""


class Stream:
    """One call. ``done`` is set when it ended; then ``error`` or ``headers`` (the trailers) say how."""

    def __init__(self, number: int, handler: StreamHandler, window: int) -> None:
        self.number, self.handler, self.window = number, handler, window
        self.done = Event()
        self.headers: dict[str, str] = {}
        self.error = ""
        self.begun = False
        self.unseen = False  # the server says that it has not looked at it
        self._buffer = bytearray()

    def feed(self, data: bytes, stamp: float) -> bool:
        """Cut gRPC messages out of the stream. False when the handler has had enough."""
        self.begun, buffer = True, self._buffer
        buffer += data
        while len(buffer) >= 5:
            end = 5 + int.from_bytes(buffer[1:5], "big")
            if len(buffer) < end:
                return True
            message = bytes(buffer[5:end])
            del buffer[:end]
            if not self.handler.message(message, stamp):
                return False
        return True

    def finish(self, error: str = "") -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()


class Connection:
    """One HTTP/2 connection. ``alive`` turns False when it takes no new stream."""

    def __init__(self, host: str, port: int, tls: Any = None) -> None:
        """Waits for the server's settings: a burst may have more streams than they allow. Raises ``OSError``."""
        self._authority, self._scheme = authority(host, port), "https" if tls else "http"
        self._socket = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = TlsSocket(self._socket, tls, host)
        self._socket.settimeout(None)
        self._encoder, self._decoder = Encoder(), Decoder()
        self._lock = RLock()  # a header block must leave in the order it was compressed
        self._window, self._stream_window, self._max_frame = DEFAULT_WINDOW, DEFAULT_WINDOW, 16_384
        self._opened, self._received, self._next = Event(), 0, 1
        self._block, self._ends, self._reason = bytearray(), False, ""
        self.streams: dict[int, Stream] = {}
        self.limit = 2**31
        self.alive = True
        settings = struct.pack(">HLHL", 2, 0, INITIAL_WINDOW_SIZE, MAX_WINDOW)  # 2: no server push
        grow = struct.pack(">L", MAX_WINDOW - DEFAULT_WINDOW)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, grow))
        self._reader = gevent.spawn(self._read)
        try:
            if not self._opened.wait(CONNECT_TIMEOUT) or not self.alive:
                raise ConnectionError(self._reason or f"no HTTP/2 settings after {CONNECT_TIMEOUT:g} s")
        except BaseException:  # also the caller's time-out
            self.close()
            raise

    def open(
        self, path: str, metadata: dict[str, str], message: bytes, handler: StreamHandler, deadline: float = math.inf
    ) -> Stream:
        """Send one request, as much as the server takes until ``deadline``; answers go to ``handler``. ``OSError``."""
        headers = [
            (":method", "POST"), (":scheme", self._scheme), (":path", path), (":authority", self._authority),
            ("te", "trailers"), ("content-type", "application/grpc"), *metadata.items(),
        ]  # fmt: skip
        with self._lock:
            if not self.alive:
                raise ConnectionError("the connection is closed")
            stream = Stream(self._next, handler, self._stream_window)
            self._next += 2
            self.streams[stream.number] = stream
            block = self._encoder.encode(headers)
            self._socket.sendall(frame(HEADERS, END_HEADERS, stream.number, block))
        self._send_body(stream, struct.pack(">BL", 0, len(message)) + message, deadline)
        return stream

    def cancel(self, stream: Stream) -> None:
        """Reset the stream. Does nothing when it has already ended."""
        if self.streams.pop(stream.number, None) is not None:
            self._send(frame(RST_STREAM, 0, stream.number, struct.pack(">L", CANCEL)))
        stream.finish("cancelled")

    def close(self) -> None:
        self.alive = False
        self._reader.kill(block=False)
        self._socket.close()
        self._fail("closed by the client")

    # --- sending ------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        with self._lock:
            try:
                self._socket.sendall(data)
            except OSError:
                self.alive = False  # the reader sees the same and tells the streams

    def _send_body(self, stream: Stream, body: bytes, deadline: float) -> None:
        """Send it in frames, as far as the server's windows allow."""
        at = 0
        while at < len(body):
            room = min(self._window, stream.window, self._max_frame)
            if room <= 0:
                self._opened.clear()
                self._opened.wait(min(1.0, max(0.0, deadline - time.monotonic())))
                if stream.done.is_set() or time.monotonic() >= deadline:
                    return
                continue
            part = body[at : at + room]
            at += len(part)
            self._window -= len(part)
            stream.window -= len(part)
            self._send(frame(DATA, END_STREAM if at == len(body) else 0, stream.number, part))

    # --- receiving ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        reason = "the server closed the connection"
        buffer = bytearray()
        try:
            kernel = stamped(self._socket)
            while True:
                data, stamp = receive(self._socket, BLOCK, kernel)
                if not data:
                    break
                buffer += data
                self._frames(buffer, stamp)
        except (OSError, HPACKError, struct.error) as error:
            reason = str(error) or type(error).__name__
        self.alive, self._reason = False, reason
        self._opened.set()
        self._fail(reason)

    def _frames(self, buffer: bytearray, stamp: float) -> None:
        at, size = 0, len(buffer)
        while size - at >= 9:
            high, low, kind, flags, number = FRAME.unpack_from(buffer, at)
            end = at + 9 + (high << 8 | low)
            if size < end:
                break
            payload = bytes(buffer[at + 9 : end])
            at = end
            if kind == DATA:
                self._data(flags, number, payload, stamp)
            elif (handle := HANDLERS.get(kind)) is not None:
                handle(self, flags, number, payload)
        del buffer[:at]

    def _data(self, flags: int, number: int, payload: bytes, stamp: float) -> None:
        self._received += len(payload)
        if self._received > TOP_UP:
            self._send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", self._received)))
            self._received = 0
        stream = self.streams.get(number)
        if stream is None:
            return  # cancelled: what was under way is dropped
        if not stream.feed(unpadded(flags, payload), stamp):
            self.cancel(stream)
        elif flags & END_STREAM:
            self._end(number)

    def on_headers(self, flags: int, number: int, payload: bytes) -> None:
        payload = unpadded(flags, payload)
        self._block += payload[5:] if flags & PRIORITY else payload
        self._ends = bool(flags & END_STREAM)
        self.on_continuation(flags, number, b"")

    def on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        self._block += payload
        if not flags & END_HEADERS:
            return
        headers = self._decoder.decode(bytes(self._block))  # always: the table is shared by all streams
        self._block.clear()
        stream = self.streams.get(number)
        if stream is not None:
            stream.headers.update((str(name), str(value)) for name, value in headers)
            if self._ends:
                self._end(number)

    def on_reset(self, flags: int, number: int, payload: bytes) -> None:
        if (stream := self.streams.pop(number, None)) is not None:
            if (code := int.from_bytes(payload, "big")) == REFUSED_STREAM:  # by a connection that is about to go
                stream.unseen, self.alive = True, False
            stream.finish(f"reset by the server (HTTP/2 code {code})")

    def on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for name, value in struct.iter_unpack(">HL", payload):
            if name == INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == MAX_FRAME_SIZE:
                self._max_frame = value
            elif name == MAX_CONCURRENT_STREAMS:
                self.limit = value
            elif name == HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
        self._opened.set()
        self._send(frame(SETTINGS, ACK, 0, b""))

    def on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & ACK:
            self._send(frame(PING, ACK, 0, payload))

    def on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        self.alive = False
        last = int.from_bytes(payload[:4], "big")
        for stream in [s for s in self.streams.values() if s.number > last]:
            stream.unseen = True
            self.streams.pop(stream.number).finish("the server is going away")

    def on_window(self, flags: int, number: int, payload: bytes) -> None:
        credit = int.from_bytes(payload, "big") & MAX_WINDOW
        if number == 0:
            self._window += credit
        elif (stream := self.streams.get(number)) is not None:
            stream.window += credit
        self._opened.set()

    def _end(self, number: int) -> None:
        if (stream := self.streams.pop(number, None)) is not None:
            stream.finish()

    def _fail(self, reason: str) -> None:
        for number in list(self.streams):
            self.streams.pop(number).finish(reason)


# What a frame type does; DATA has a short cut of its own, any other type is to be ignored (RFC 9113 4.1).
HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    HEADERS: Connection.on_headers,
    CONTINUATION: Connection.on_continuation,
    RST_STREAM: Connection.on_reset,
    SETTINGS: Connection.on_settings,
    PING: Connection.on_ping,
    GOAWAY: Connection.on_goaway,
    WINDOW_UPDATE: Connection.on_window,
}


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    size = len(payload)
    return FRAME.pack(size >> 8, size & 0xFF, kind, flags, number) + payload


def unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
