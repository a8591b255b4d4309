"""An IPv6 address stands in brackets before a port."""

from __future__ import annotations

import pytest

from contract.authority import authority


@pytest.mark.parametrize(
    ("host", "text"),
    [("127.0.0.1", "127.0.0.1:80"), ("llm.example", "llm.example:80"), ("::1", "[::1]:80")],
)
def test_a_host_and_a_port(host: str, text: str) -> None:
    assert authority(host, 80) == text
