"""Bodies that do not come, and what may stand in front of their JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.gateway.api import http
from serving.gateway.core.bodies import BodyMemory
from serving.gateway.schema.errors import ApiError


def test_a_body_that_stops_half_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)

    async def read() -> None:
        parts = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.sleep(60)

        await http.read_body({"headers": []}, receive, 100, BodyMemory(100).begin())

    with pytest.raises(ApiError, match="only 1 bytes") as caught:
        asyncio.run(read())
    assert caught.value.status == 408 and caught.value.close


def test_a_byte_order_mark_changes_nothing() -> None:
    """Windows' editors and PowerShell put one in front of a file, which ``curl -d @file`` sends as it is."""
    assert http.read_json(b'\xef\xbb\xbf{"n": 1}') == {"n": 1}
    with pytest.raises(ApiError, match="the body is empty"):
        http.read_json(b"\xef\xbb\xbf")
    with pytest.raises(ApiError, match="not JSON in UTF-8"):
        http.read_json(b"\xef\xbb\xbf\xef\xbb\xbf{}")


def test_of_a_key_that_stands_twice_the_last_value_holds() -> None:
    """As in vLLM and at OpenAI."""
    assert http.read_json(b'{"n": 1, "n": 2}') == {"n": 2}
