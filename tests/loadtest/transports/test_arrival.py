"""When did bytes arrive? Not when somebody had time to read them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket, ssl

from loadtest.transports.arrival import LATE_MAX_NS, keep_stamping, receive, stamped
from loadtest.transports.tls import TlsSocket
from tests.certificates import Authority


def connected() -> tuple[Any, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


def test_a_reader_that_is_late_stamps_the_arrival() -> None:
    keep_stamping()
    ours, theirs = connected()
    with ours, theirs:
        kernel = stamped(ours)
        assert kernel, "Linux stamps TCP since 4.14"
        deadline = time.monotonic() + 10
        while True:
            before = time.monotonic()
            theirs.sendall(b"token")
            after = time.monotonic()
            time.sleep(0.1)  # the whole loop stands still
            data, stamp = receive(ours, 100, kernel)
            assert data == b"token" and before - 0.001 < stamp
            if stamp < after + 0.05:
                break
            assert time.monotonic() < deadline, "the kernel switches stamps on a moment after they were asked for"


def test_without_the_kernel_the_read_is_stamped() -> None:
    ours, theirs = connected()
    with ours, theirs:
        theirs.sendall(b"token")
        before = time.monotonic()
        data, stamp = receive(ours, 100, False)
        assert data == b"token" and stamp >= before
        theirs.close()
        assert receive(ours, 100, stamped(ours))[0] == b""


def test_a_clock_that_was_set_is_no_lateness(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = connected()
    with ours, theirs:
        kernel = stamped(ours)
        now = time.time_ns()
        for shift in (-LATE_MAX_NS, 2 * LATE_MAX_NS):
            theirs.sendall(b"token")
            monkeypatch.setattr(time, "time_ns", lambda shift=shift: now + shift)
            before = time.monotonic()
            assert before <= receive(ours, 100, kernel)[1] <= time.monotonic()


def test_a_socket_that_is_read_in_another_way_is_not_stamped() -> None:
    assert not stamped(object())


def test_tls_keeps_the_stamps(tmp_path: Path) -> None:
    keep_stamping()
    made = Authority(tmp_path, "ca").sign("server")
    ours, theirs = connected()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(tmp_path / "ca.crt")
    answer = gevent.spawn(lambda: context.wrap_socket(socket.socket(fileno=theirs.detach()), server_side=True))
    secure = TlsSocket(ours, client, "localhost")
    with ours, answer.get(timeout=60) as server:
        kernel = stamped(secure)
        deadline = time.monotonic() + 10
        while True:
            server.sendall(b"token")
            after = time.monotonic()
            time.sleep(0.1)  # the whole loop stands still
            data, stamp = receive(secure, 100, kernel)
            assert data == b"token" and kernel
            if stamp < after + 0.05:
                break
            assert time.monotonic() < deadline
        big = bytes(100_000)  # of several records; and back
        sent = gevent.spawn(server.sendall, big)
        got = b""
        while len(got) < len(big):
            got += receive(secure, 65_536, kernel)[0]
        secure.sendall(big)
        sent.get(timeout=60)
        back = b""
        while len(back) < len(big):
            back += server.recv(65_536)
        assert got == back == big
        gevent.spawn(server.unwrap)  # which waits for an answer
        assert receive(secure, 100, kernel)[0] == b""


def test_a_certificate_of_nobody_is_an_os_error(tmp_path: Path) -> None:
    made = Authority(tmp_path, "ca").sign("server")
    ours, theirs = connected()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    gevent.spawn(lambda: context.wrap_socket(socket.socket(fileno=theirs.detach()), server_side=True))
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        TlsSocket(ours, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "localhost")
