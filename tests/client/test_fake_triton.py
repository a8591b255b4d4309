"""The fake server itself: what it does to the tests that use it."""

from __future__ import annotations

import socket
import struct
import time
from urllib.parse import urlsplit

import pytest

from tests.client.fake_triton import FakeTriton


def test_a_metrics_client_that_left_prints_no_traceback(fake: FakeTriton, capfd: pytest.CaptureFixture[str]) -> None:
    address = urlsplit(fake.metrics)
    for pause in [0.0, 0.001] * 10:
        with socket.create_connection((address.hostname, address.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            client.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            time.sleep(pause)
    time.sleep(0.1)
    assert "Traceback" not in capfd.readouterr().err
