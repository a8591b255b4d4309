"""Attacks that never worked, as a gateway's own tests: request smuggling, foreign origins, path traversal."""

from __future__ import annotations

import json
import re
import socket

import httpx
import pytest

from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT

HIDDEN = json.dumps({"messages": [{"role": "user", "content": "SAY hidden"}]}).encode()
HIDDEN_REQUEST = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(HIDDEN), HIDDEN)


def raw(web: httpx.Client, sent: bytes) -> bytes:
    """Everything that the server answers until it closes, or falls silent."""
    with socket.create_connection((web.base_url.host, web.base_url.port or 0), timeout=20) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
                connection.settimeout(0.7)  # silence ends an answer, not what a busy machine takes to begin it
        except (TimeoutError, ConnectionResetError):
            return received
        return received


def statuses(received: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


def smuggled(head: bytes, body: bytes = b"") -> bytes:
    """A request whose length two servers may read differently, and what one of them would take for another request."""
    return b"POST /tokenize HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n" + body + HIDDEN_REQUEST


SMUGGLING = {
    "both lengths, content shorter": smuggled(b"content-length: 5\r\ntransfer-encoding: chunked", b"0\r\n\r\n"),
    "both lengths, chunks shorter": smuggled(b"transfer-encoding: chunked\r\ncontent-length: 300", b"0\r\n\r\n"),
    "two content lengths": smuggled(b"content-length: 0\r\ncontent-length: 300"),
    "a list of content lengths": smuggled(b"content-length: 0, 300"),
    "a signed content length": smuggled(b"content-length: +0"),
    "a content length of hex": smuggled(b"content-length: 0x0"),
    "chunked with a letter more": smuggled(b"content-length: 300\r\ntransfer-encoding: xchunked"),
    "chunked is not the last coding": smuggled(b"transfer-encoding: chunked, identity", b"0\r\n\r\n"),
    "a space before the colon": smuggled(b"content-length : 0\r\ntransfer-encoding : chunked", b"0\r\n\r\n"),
    "a folded header": smuggled(b"transfer-encoding:\r\n\tchunked\r\ncontent-length: 300", b"0\r\n\r\n"),
    "a bare carriage return": smuggled(b"x: y\rtransfer-encoding: chunked\r\ncontent-length: 0\r"),
    "a chunk size that is no number": smuggled(b"transfer-encoding: chunked", b"0_1\r\nx\r\n0\r\n\r\n"),
    "a newline in a chunk extension": smuggled(b"transfer-encoding: chunked", b"1;\nx\r\n0\r\n\r\n"),
    "a null byte in a header": smuggled(b"x: \x00\r\ncontent-length: 0"),
}


@pytest.mark.parametrize("case", SMUGGLING)
def test_no_request_is_smuggled(web: httpx.Client, fake: FakeTriton, case: str) -> None:
    received = raw(web, SMUGGLING[case])
    assert statuses(received) == [400], received
    assert b"connection: close" in received.lower() and json.loads(received.split(b"\r\n\r\n", 1)[1])["error"]
    assert fake.requests == []
    assert web.post(CHAT, json=json.loads(HIDDEN)).status_code == 200


OWN = "own"  # stands for the address that the test's gateway has
ORIGINS = {
    "another site": ("https://evil.example", OWN),
    "a sandboxed frame": ("null", OWN),
    "another port of this host": ("http://127.0.0.1:1", OWN),
    "its address as a prefix": ("http://127.0.0.1:{port}.evil.example", OWN),
    "its address as a user": ("http://127.0.0.1:{port}@evil.example", OWN),
    "its address in the path": ("http://evil.example/127.0.0.1:{port}", OWN),
    "a name that points here": ("http://evil.example:{port}", "evil.example:{port}"),
    "a name with this address in it": ("http://127.0.0.1.nip.io:{port}", "127.0.0.1.nip.io:{port}"),
    "a name of one word that points here": ("http://evil:{port}", "evil:{port}"),
    "a name that begins like localhost": ("http://localhost.evil.example:{port}", "localhost.evil.example:{port}"),
    "a browser extension": ("chrome-extension://abcdef", OWN),
    "a file": ("file://", OWN),
    "a broken address": ("http://[", OWN),
}


@pytest.mark.parametrize("case", ORIGINS)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])  # the second needs no preflight
def test_pages_of_others_get_nothing(web: httpx.Client, fake: FakeTriton, case: str, kind: str) -> None:
    port = web.base_url.port
    origin, host = (text.format(port=port) for text in ORIGINS[case])
    headers = {"origin": origin, "content-type": kind, "host": f"127.0.0.1:{port}" if host == OWN else host}
    answer = web.post(CHAT, content=HIDDEN, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers
    assert fake.requests == []


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example", "evillocalhost.com"])
def test_a_page_whose_name_points_here_reads_nothing(web: httpx.Client, name: str) -> None:
    """Its requests to read are of its own origin, so that they name none."""
    for path in ("/", "/v1/models", "/metrics", "/v1/responses/resp_1"):
        answer = web.get(path, headers={"host": f"{name}:{web.base_url.port}"})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize(
    "name", ["localhost", "localhost.", "app.localhost", "127.0.0.1", "[::1]", "host.docker.internal", "nas.local"]
)
def test_this_machine_under_its_names(web: httpx.Client, name: str) -> None:
    assert web.get("/v1/models", headers={"host": f"{name}:{web.base_url.port}"}).status_code == 200


TRAVERSALS = (
    "/static/../settings.py",
    "/static/../../gateway/settings.py",
    "/static/%2e%2e/settings.py",
    "/static/..%2fsettings.py",
    "/static/%2e%2e%2f%2e%2e%2fgateway/settings.py",
    "/static/....//settings.py",
    "/static/..\\settings.py",
    "/static/..%5csettings.py",
    "/static/%252e%252e/settings.py",
    "/static/%c0%ae%c0%ae/settings.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/js/%00../../settings.py",
    "//etc/passwd",
    "/v1/models/..%2f..%2fsettings.py",
)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_file_outside_is_served(web: httpx.Client, path: str) -> None:
    received = raw(web, b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n" % path.encode())
    assert statuses(received) and set(statuses(received)) <= {400, 404}, received
    assert b"GatewaySettings" not in received and b"root:" not in received
