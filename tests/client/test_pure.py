"""Retries, addresses and request ids: the parts without a network."""

from __future__ import annotations

import pytest

from client import Retry, errors
from client.address import parse
from client.sequences import request_ids, retry_delay

RETRY = Retry(attempts=3, backoff=1.0, longest=5.0)


@pytest.mark.parametrize(
    ("error", "attempt", "started", "least", "most"),
    [
        (errors.Overloaded("q"), 1, False, 0.5, 1.0),
        (errors.Overloaded("q"), 2, False, 1.0, 2.0),
        (errors.ConnectError("c"), 1, False, 0.5, 1.0),
        (errors.Overloaded("q", retry_after=4), 1, False, 4.0, 4.0),
    ],
)
def test_safe_failures_are_tried_again_later(
    error: errors.ClientError, attempt: int, started: bool, least: float, most: float
) -> None:
    delay = retry_delay(error, attempt, RETRY, started)
    assert delay is not None and least <= delay <= most


@pytest.mark.parametrize(
    ("error", "attempt", "started"),
    [
        (errors.Overloaded("q"), 3, False),
        (errors.Overloaded("q"), 1, True),
        (errors.Overloaded("q", retry_after=60), 1, False),
        (errors.InvalidRequest("x", "y"), 1, False),
        (errors.RequestTimeout("total", 1), 1, False),
    ],
)
def test_others_are_not(error: errors.ClientError, attempt: int, started: bool) -> None:
    assert retry_delay(error, attempt, RETRY, started) is None


def test_addresses() -> None:
    assert parse("localhost:8001") == ("grpc", "localhost:8001", False)
    assert parse("grpcs://h:1") == ("grpc", "h:1", True)
    assert parse("https://h/v1/") == ("openai", "https://h", True)
    assert parse("[::1]:8001") == ("grpc", "[::1]:8001", False)


def test_ids_are_unique_over_clients() -> None:
    ids = [make() for make in (request_ids(), request_ids()) for _ in range(1000)]
    assert len(set(ids)) == 2000
