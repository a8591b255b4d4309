"""Kept responses: found by id, item and owner, bounded by bytes and age."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from serving.gateway.core.response_store import ResponseStore

QUESTION: dict[str, Any] = {"type": "message", "role": "user", "content": "Hi"}


def response(number: int, size: int = 10) -> dict[str, Any]:
    item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": "x" * size}
    return {"id": f"resp_{number}", "output": [item]}


@pytest.fixture
def store(tmp_path: Path) -> ResponseStore:
    return ResponseStore(tmp_path / "responses", 2**20, 60.0)


def test_what_is_saved_is_found_by_its_owner_only(store: ResponseStore, tmp_path: Path) -> None:
    store.save("a", response(1), [QUESTION])
    other_worker = ResponseStore(tmp_path / "responses", 2**20, 60.0)
    assert other_worker.response("a", "resp_1") == response(1)
    assert other_worker.conversation("a", "resp_1") == [QUESTION, *response(1)["output"]]
    assert other_worker.item("a", "msg_1") == response(1)["output"][0]
    assert store.response("b", "resp_1") is store.item("b", "msg_1") is store.conversation("", "resp_1") is None
    assert store.response("a", "msg_1") is store.item("a", "resp_1") is None
    assert store.response("a", "../../etc/passwd") is None


def test_what_is_deleted_is_gone_with_its_items(store: ResponseStore) -> None:
    store.save("a", response(1), [])
    assert not store.delete("b", "resp_1") and store.delete("a", "resp_1") and not store.delete("a", "resp_1")
    assert store.response("a", "resp_1") is store.item("a", "msg_1") is None


def test_the_oldest_go_when_there_is_no_room(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "responses", 200_000, 60.0)
    for number in range(10):
        store._swept = 0.0
        store.save("", response(number, 50_000), [])
    kept = [number for number in range(10) if store.response("", f"resp_{number}")]
    assert 0 < len(kept) < 5 and kept[-1] == 9
    assert sum(file.stat().st_size for file in (tmp_path / "responses").iterdir()) <= 200_000


def test_what_is_too_old_is_not_found_and_goes(store: ResponseStore, tmp_path: Path) -> None:
    store.save("", response(1), [])
    for file in (tmp_path / "responses").iterdir():
        os.utime(file, (time.monotonic() - 61, time.monotonic() - 61))
    assert store.response("", "resp_1") is store.item("", "msg_1") is None
    store._swept = 0.0
    store.save("", response(2), [])
    assert len(list((tmp_path / "responses").iterdir())) == 2


def test_a_clock_that_is_set_makes_nothing_old(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("", response(1), [])
    today = time.time()
    for clock in (today + 1e6, today - 1e6):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        store._swept = 0.0
        store.save("", response(2), [])
        assert store.response("", "resp_1") == response(1)
