"""Two workers, one file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving.gateway.core.share import table as module
from serving.gateway.core.share.table import ShareTable

A, B = 1, 2


@pytest.fixture
def two(tmp_path: Path) -> tuple[ShareTable, ShareTable]:
    return ShareTable(tmp_path / "shares", 3), ShareTable(tmp_path / "shares", 3)


def test_numbers_of_all_workers_are_added_up(two: tuple[ShareTable, ShareTable]) -> None:
    one, other = two
    one.arrive(A, 2, 100, 1.0)
    other.arrive(A, 1, 50, 1.0)
    other.arrive(B, 1, 10, 1.0)
    assert (one.waiting(), one.waiting(A), one.waiting_prompts(A), one.flight()) == (4, 3, 150, 0)
    other.begin(B, 1, 10, 30)
    one.begin(A, 2, 100, 200, is_long=True)
    assert (other.waiting(), other.flight(), other.flight(A)) == (1, 3, 2)
    assert (other.unread_tokens(with_long=False), other.unread_tokens(with_long=True), other.unread_long) == (
        10,
        110,
        1,
    )
    other.end(B, 1, 30, 25)
    assert (one.counter(B), one.rank(B), one.counter(A), one.rank(A)) == (25, 25, 0, 200)
    other.give_up(A, 1, 50)
    one.unread(-100, is_long=True)
    assert (one.waiting(), one.flight(), one.waiting_prompts(A)) == (0, 2, 0)
    assert (one.unread_tokens(with_long=True), one.unread_long) == (10, 0)


def test_a_tenant_that_was_away_begins_where_the_others_are(two: tuple[ShareTable, ShareTable]) -> None:
    one, other = two
    for _ in range(3):
        one.arrive(A, 1, 0, 1.0)
        one.begin(A, 1, 0, 100)
        one.end(A, 1, 100, 90)
        one.arrive(A, 1, 0, 1.0)
        one.give_up(A, 1, 0)
    other.arrive(B, 1, 0, 1.0)
    assert other.counter(B) == 180, "the counter of A when its last request began"
    one.arrive(A, 1, 0, 1.0)
    one.begin(A, 1, 0, 100)
    other.arrive(B, 1, 0, 1.0)
    assert other.counter(B) == 180, "still present: nothing is forgiven"


def test_the_row_of_a_dead_worker_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "getpid", lambda: dead.pid)
        ShareTable(tmp_path / "shares", 1).arrive(A, 5, 10, 1.0)
    successor = ShareTable(tmp_path / "shares", 1)
    assert successor.waiting() == successor.waiting(A) == 0


def test_who_was_here_lately(two: tuple[ShareTable, ShareTable]) -> None:
    one, other = two
    one.arrive(A, 1, 0, 10.0)
    assert one.is_alone(A, 10.0) and not one.is_alone(B, 10.0)
    other.arrive(B, 1, 0, 20.0)
    other.arrive(A, 1, 0, 30.0)
    assert not one.is_alone(A, 30.0) and one.is_alone(A, 20.0 + module.RECENT_SECONDS)


def test_a_worker_that_stopped_looking_is_not_waited_for(two: tuple[ShareTable, ShareTable]) -> None:
    one, other = two
    one.publish(A, 5.0, 7.0)
    assert other.heads(7.0) == [(A, 5.0)] and one.heads(7.0) == []
    assert other.heads(7.0 + 2 * module.FRESH_SECONDS) == []
    one.publish(0, 0.0, 7.0)
    assert other.heads(7.0) == []
