"""Clients that offer another protocol too are answered in HTTP/1.1; java.net.http does so with its first request."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest

BODY = json.dumps({"model": "qwen", "messages": [{"role": "user", "content": "SAY hello"}], "max_tokens": 5}).encode()
JAVA = (
    b"POST /v1/chat/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\nHost: x\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/21\r\n"
    b"Content-Type: application/json\r\n\r\n" % len(BODY)
)
WEBSOCKET = (
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def answers(web: httpx.Client, pieces: list[bytes], count: int) -> bytes:
    """All that comes, with ``count`` good answers in it; the last request asks for the connection's end."""
    with socket.create_connection((web.base_url.host, web.base_url.port or 80), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200") == count, received
    return received


LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("cut", [0, 1, 30, len(JAVA) - 30, len(JAVA) - 2, len(JAVA), len(JAVA) + 10])
def test_the_body_after_an_offer_of_http2_is_read(web: httpx.Client, cut: int) -> None:
    """However the network cuts the request; the connection goes on."""
    whole = JAVA + BODY
    assert b"hello" in answers(web, [whole[:cut], whole[cut:], LAST], 2)


def test_what_follows_in_the_same_packet_is_the_next_request(web: httpx.Client) -> None:
    assert answers(web, [JAVA + BODY + JAVA + BODY + LAST], 3).count(b"hello") == 2


def test_an_offer_of_websockets_is_answered_by_http(web: httpx.Client) -> None:
    assert b"qwen" in answers(web, [WEBSOCKET, LAST], 2)


def test_thousand_offers_in_one_packet(web: httpx.Client) -> None:
    offer = b"GET /health/live HTTP/1.1\r\nHost: x\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"
    answers(web, [offer * 1000 + LAST], 1001)
