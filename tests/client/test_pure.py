"""Retries, addresses and request ids: the parts without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from client import Client, Options, Retry, Timeouts, errors, refusals
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


def test_a_server_that_restarts_is_looked_for_each_second_however_long_it_takes() -> None:
    """An answer of a 7B engine stood 9 s longer than the restart, as long as the attempts lay apart by then."""
    for attempt in (3, 8, 40):
        delay = retry_delay(errors.ConnectError("gone"), attempt, Retry(), started=False, patience=80.0)
        assert delay is not None and delay <= 1.0
    assert retry_delay(errors.EngineUnavailable("later", retry_after=4), 8, RETRY, False, patience=80.0) == 4.0


def test_addresses() -> None:
    assert parse("localhost:8001") == ("grpc", "localhost:8001", False)
    assert parse("grpcs://h:1") == ("grpc", "h:1", True)
    assert parse("https://h/v1/") == ("openai", "https://h", True)
    assert parse("[::1]:8001") == ("grpc", "[::1]:8001", False)


def test_ids_are_unique_over_clients() -> None:
    ids = [make() for make in (request_ids(), request_ids()) for _ in range(1000)]
    assert len(set(ids)) == 2000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda wrong: Client(wrong), "address None: give a str"),
        (lambda wrong: Client(timeouts=wrong), "timeouts: NoneType is not Timeouts"),
        (lambda wrong: Client(retry=wrong), "retry: NoneType is not Retry"),
        (lambda _: Client().generate("x", timeouts=5), "timeouts: int is not Timeouts"),  # type: ignore[arg-type]
        (lambda _: Timeouts(connect=-1), "timeouts: connect=-1: give seconds above 0, or None"),
        (lambda _: Timeouts(total=0), "timeouts: total=0: give seconds above 0"),
        (lambda _: Timeouts(first_token="5"), "timeouts: first_token='5'"),  # type: ignore[arg-type]
        (lambda _: Timeouts(between_chunks=float("nan")), "timeouts: between_chunks=nan"),
        (lambda _: Timeouts(between_chunks=float("inf")), "timeouts: between_chunks=inf"),
        (lambda _: Retry(attempts=0), "retry: attempts=0: give a whole number of at least 1"),
        (lambda _: Retry(backoff=-1), "retry: backoff=-1"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(wrong: Callable[[Any], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong(None)


def test_a_dict_is_no_options() -> None:
    with Client() as client, pytest.raises(errors.InvalidRequest, match="options: dict is not Options; give Options"):
        client.generate("x", {"max_tokens": 3})  # type: ignore[arg-type]
    assert Timeouts(connect=None, total=0.5) and Options(max_tokens=3)


def test_an_unknown_host_is_no_engine_that_died() -> None:
    """gRPC's own words of 2025; those of earlier releases say "DNS resolution failed"."""
    details = (
        "errors resolving nosuch.invalid:8001: [field:hostname lookup error:address lookup failed for "
        "nosuch.invalid:8001: Domain name not found]"
    )
    error = refusals.from_grpc("UNAVAILABLE", details, "nosuch.invalid:8001")
    assert isinstance(error, errors.ConnectError)
    assert str(error) == "no server answers at nosuch.invalid:8001 (Domain name not found); start one with: make serve"
