"""Many streams, one message each per tick, almost for free: pre-built frames over raw HTTP/2.

    python tests/loadtest/flood_server.py --tick-ms 20      prints its port as JSON; closes with stdin

A grpcio server in Python spends more on a message than the generator does, so it cannot show where the generator's own
limit lies. This one sends all streams of a connection in one write per tick.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from typing import Any

import gevent
from gevent import socket
from gevent.fileobject import FileObject
from gevent.server import StreamServer
from hpack import Decoder, Encoder
from tritonclient.grpc import service_pb2 as pb

from loadtest.transports.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.loadtest.mock_server import response

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
TAIL = [("grpc-status", "0")]


def grpc(message: Any) -> bytes:
    data = message.SerializeToString()
    return struct.pack(">BL", 0, len(data)) + data


class Peer:
    """One connection: who waits for tokens, and how far each is."""

    def __init__(self, sock: Any) -> None:
        self.sock, self.decoder, self.encoder = sock, Decoder(), Encoder()
        self.paths: dict[int, str] = {}
        self.bodies: dict[int, bytes] = {}
        self.sent: dict[int, list[int]] = {}  # stream -> [tokens so far, tokens wanted]

    def read(self) -> None:
        data = bytearray()
        while len(data) < len(PREFACE):
            data += self.sock.recv(4096)
        del data[: len(PREFACE)]
        self.sock.sendall(frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 2**30)))
        while True:
            while len(data) >= 9:
                high, low, kind, flags, number = FRAME.unpack_from(data)
                end = 9 + (high << 8 | low)
                if len(data) < end:
                    break
                self.frame(kind, flags, number, bytes(data[9:end]))
                del data[:end]
            more = self.sock.recv(65536)
            if not more:
                return
            data += more

    def frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == HEADERS:
            self.paths[number] = dict(self.decoder.decode(payload))[":path"]
            self.bodies[number] = b""
        elif kind == DATA:
            self.bodies[number] += payload
            if flags & END_STREAM:
                self.asked(number, self.paths.pop(number), self.bodies.pop(number)[5:])
        elif kind == RST_STREAM:
            self.sent.pop(number, None)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.sock.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))

    def asked(self, number: int, path: str, body: bytes) -> None:
        head = frame(HEADERS, END_HEADERS, number, self.encoder.encode(HEAD))
        if path.endswith("ModelStreamInfer"):
            request = pb.ModelInferRequest.FromString(body)
            names = [i.name for i in request.inputs]
            self.sent[number] = [0, struct.unpack("<i", request.raw_input_contents[names.index("max_tokens")])[0]]
            self.sock.sendall(head)
            return
        ready = path.endswith("ModelReady")
        answer = pb.ModelReadyResponse(ready=True) if ready else pb.ServerMetadataResponse(name="flood")
        self.sock.sendall(head + frame(DATA, 0, number, grpc(answer)) + self.tail(number))

    def tail(self, number: int) -> bytes:
        return frame(HEADERS, END_HEADERS | END_STREAM, number, self.encoder.encode(TAIL))

    def tick(self, messages: dict[tuple[int, bool], bytes]) -> None:
        parts = []
        for number, state in list(self.sent.items()):
            state[0] += 1
            last = state[0] == state[1]
            key = (state[0], last)
            if key not in messages:
                messages[key] = grpc(
                    pb.ModelStreamInferResponse(infer_response=response(state[0], state[1] if last else -1, 9))
                )
            parts.append(frame(DATA, 0, number, messages[key]))
            if last:
                del self.sent[number]
                parts.append(self.tail(number))
        if parts:
            self.sock.sendall(b"".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tick-ms", type=float, default=20.0)
    args = parser.parse_args()
    peers: list[Peer] = []

    def handle(sock: Any, address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(sock)
        peers.append(peer)
        try:
            peer.read()
        except OSError:
            peers.remove(peer)

    def ticks() -> None:
        messages: dict[tuple[int, bool], bytes] = {}
        due = time.monotonic()
        while True:
            due = max(due + args.tick_ms / 1e3, time.monotonic() - 0.1)
            gevent.sleep(max(0.0, due - time.monotonic()))
            for peer in peers:
                peer.tick(messages)

    server = StreamServer(("127.0.0.1", args.port), handle)
    server.start()
    gevent.spawn(ticks)
    print(json.dumps({"grpc": server.server_port, "gateway": server.server_port}), flush=True)
    FileObject(sys.stdin.buffer).read()


if __name__ == "__main__":
    main()
